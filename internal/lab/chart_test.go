package lab

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestNiceStep(t *testing.T) {
	for _, tc := range []struct {
		limit float64
		n     int
		want  float64
	}{{141, 5, 50}, {100, 5, 20}, {9, 10, 1}, {12.2, 10, 2}, {1.1, 5, 0.5}, {0, 5, 1}, {0.03, 5, 0.01}} {
		if got := niceStep(tc.limit, tc.n); round(got, 6) != tc.want {
			t.Errorf("niceStep(%v, %d) = %v, want %v", tc.limit, tc.n, got, tc.want)
		}
	}
}

// TestChartSurvives draws what a run can come to at its worst.
func TestChartSurvives(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, c := range map[string]*chart{
		"empty":           {},
		"no points":       {areas: []series{{}}, lines: []series{{}}},
		"one point":       {areas: []series{{x: []float64{1}, y: []float64{2}}}, lines: []series{{x: []float64{1}, y: []float64{2}}}},
		"one point at 0":  {lines: []series{{x: []float64{0}, y: []float64{0}}}},
		"all unknown":     {areas: []series{{x: []float64{1, 2}, y: []float64{nan, nan}}}, lines: []series{{x: []float64{1, 2}, y: []float64{nan, inf}}}},
		"unknown time":    {areas: []series{{x: []float64{nan}, y: []float64{1}}}, lines: []series{{x: []float64{nan, 1}, y: []float64{1, 1}}}},
		"infinite":        {areas: []series{{x: []float64{1, 2}, y: []float64{inf, 1}}}},
		"more x than y":   {areas: []series{{x: []float64{1, 2}, y: []float64{1}}}, lines: []series{{x: []float64{1, 2}, y: []float64{1}}}},
		"more y than x":   {areas: []series{{x: []float64{1}, y: []float64{1, 2}}}, lines: []series{{x: []float64{1}, y: []float64{1, 2}}}},
		"layers differ":   {areas: []series{{x: []float64{1}, y: []float64{1}}, {x: []float64{1, 2}, y: []float64{1, 2}}}},
		"tiny":            {lines: []series{{x: []float64{1e-9, 2e-9}, y: []float64{1e-12, 2e-12}}}},
		"huge":            {lines: []series{{x: []float64{1, 1e12}, y: []float64{1e12, 1}}}},
		"bands elsewhere": {bands: []Mark{{From: 50, To: 60, Label: "x"}, {From: 0, To: 1e9, Label: "<y>"}}, xMax: 10},
		"strips":          {strips: []strip{{name: "<s>", spans: []span{{0, 5, "up", "<w>"}, {50, 60, "up", "x"}}}}, xMax: 10},
		"cut off":         {lines: []series{{x: []float64{1, 2}, y: []float64{1, 900}}}, yMost: 10, limit: 500, note: "limit"},
	} {
		text := string(c.draw())
		for _, bad := range []string{"NaN", "Inf", "%!", "<s>", "<w>", "<y>"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s: the drawing contains %q", name, bad)
			}
		}
		if strings.Count(text, "<svg") != len(chartSizes) {
			t.Errorf("%s: %d drawings", name, strings.Count(text, "<svg"))
		}
		if err := wellFormed("<page>" + text + "</page>"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(text) > 40_000 {
			t.Errorf("%s: %d bytes", name, len(text))
		}
	}
}

func TestLineHasGaps(t *testing.T) {
	nan := math.NaN()
	p := plane{width: 162, height: 150, bottom: 124, xMax: 10, yTop: 10}
	for _, tc := range []struct {
		name string
		y    []float64
		want string
	}{
		{"whole", []float64{0, 10, 0}, "M52.0 124.0L62.0 24.0L72.0 124.0"},
		{"hole", []float64{0, nan, 0}, "M52.0 124.0h0M72.0 124.0h0"},
		{"starts late", []float64{nan, 0, 0}, "M62.0 124.0L72.0 124.0"},
		{"ends early", []float64{0, 0, nan}, "M52.0 124.0L62.0 124.0"},
		{"above the axis", []float64{20, 20}, "M52.0 24.0L62.0 24.0"},
	} {
		if got := p.line([]float64{0, 1, 2}, tc.y); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestEnvelopeKeepsPeaks(t *testing.T) {
	seed := testSeed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	x, y := make([]float64, 36_000), make([]float64, 36_000)
	for i := range x {
		x[i], y[i] = float64(i), rng.Float64()
	}
	y[100], y[20_001], y[35_999] = 50, -7, 9
	for i := 5000; i < 9000; i++ {
		y[i] = math.NaN()
	}
	ex, ey := envelope(x, y, 800)
	if len(ey) > 801 || len(ex) != len(ey) || !slices.IsSorted(ex) {
		t.Errorf("%d points, in order: %v", len(ey), slices.IsSorted(ex))
	}
	for _, peak := range []float64{50, -7, 9} {
		if i := slices.Index(ey, peak); i < 0 || y[int(ex[i])] != peak {
			t.Errorf("the peak of %v is gone or elsewhere", peak)
		}
	}
	if !slices.ContainsFunc(ey, math.IsNaN) {
		t.Error("the gap is gone")
	}
	if sx, sy := envelope(x[:10], y[:10], 800); len(sx) != 10 || len(sy) != 10 {
		t.Error("a short line was thinned")
	}
}

func TestSmoothAndRatio(t *testing.T) {
	nan := math.NaN()
	for _, tc := range []struct {
		name string
		got  []float64
		want []float64
	}{
		{"mean of three", smooth([]float64{0, 3, 6, 9}, 3), []float64{1.5, 3, 6, 7.5}},
		{"gap stays", smooth([]float64{1, nan, 3}, 3), []float64{1, nan, 3}},
		{"as they are", smooth([]float64{1, 5}, 1), []float64{1, 5}},
		{"sums, not means of ratios", ratio([]float64{1, 0, 9}, []float64{2, 0, 18}, 3), []float64{0.5, 0.5, 0.5}},
		{"nothing to divide by", ratio([]float64{1, 1}, []float64{0, nan}, 3), []float64{nan, nan}},
		{"shorter divisor", ratio([]float64{1, 1}, []float64{2}, 1), []float64{0.5, nan}},
		{"nothing", smooth(nil, 3), []float64{}},
	} {
		if diff := cmp.Diff(tc.want, tc.got, cmpopts.EquateNaNs(), cmpopts.EquateApprox(0, 1e-12)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tc.name, diff)
		}
	}
}
