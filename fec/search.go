package fec

// run is a run of missing packets, by rank: [lo, hi).
type run struct{ lo, hi int }

// searcher finds the runs of missing packets that there are enough repairs for. It has only scratch memory.
type searcher struct {
	candidates []*equation
}

// tight looks for a run of at most MaxUnknowns missing packets, such that at least as many repairs miss packets of that
// run and no others. Such a run can be solved, unless its repairs are dependent; outside of such runs nothing can be,
// but by luck.
//
// equations are in the order of hi and know their ranks. Windows slide, so as a rule lo is in order too, and then the
// repairs inside [lo(a), hi(b)) are a..b, and a run is tight if b-a+1 >= hi(b)-lo(a), that is lo(a)-a > hi(b)-b-1: one
// pass suffices, with the maximum of the left side so far.
func (s *searcher) tight(equations []*equation) (run, bool) {
	limit := min(len(equations), MaxUnknowns)
	s.candidates = s.candidates[:0]
	inOrder := true
	for _, e := range equations {
		if e.hi-e.lo > limit {
			continue // more missing than there are repairs, or than we solve for
		}
		if n := len(s.candidates); n > 0 && s.candidates[n-1].lo > e.lo {
			inOrder = false
		}
		s.candidates = append(s.candidates, e)
	}
	if !inOrder {
		return s.tightAnyOrder()
	}
	best := 0
	for b, e := range s.candidates {
		if b == 0 || e.lo-b > best {
			best = e.lo - b
		}
		if best < e.hi-b-1 {
			continue
		}
		// The shortest such run ending here.
		a := b
		for s.candidates[a].lo-a < e.hi-b-1 {
			a--
		}
		if r := (run{s.candidates[a].lo, e.hi}); r.hi-r.lo <= MaxUnknowns {
			return r, true
		}
	}
	return run{}, false
}

// tightAnyOrder does the same for repairs over ranges that contain one another.
func (s *searcher) tightAnyOrder() (run, bool) {
	for a := len(s.candidates) - 1; a >= 0; a-- {
		lo, count := s.candidates[a].lo, 0
		for _, e := range s.candidates {
			if e.hi-lo > min(len(s.candidates), MaxUnknowns) {
				break
			}
			if e.lo >= lo {
				if count++; count >= e.hi-lo {
					return run{lo, e.hi}, true
				}
			}
		}
	}
	return run{}, false
}
