package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/journal"
	"github.com/landbridge/landbridge/pathsel"
)

func init() { commands = append(commands, newReplay) }

func newReplay() *cobra.Command {
	var policy string
	var set []string
	var all bool
	cmd := &cobra.Command{
		Use:   "replay FILE|DIR... [--policy FILE] [--set CLASS.KEY=VALUE]",
		Short: "Decide again what a log of path decisions holds, or what another policy had decided",
		Long: `Reads a node's decision log, one JSON record a line ("-" for standard input), prints its moves with their reasons,
and proves that the same states and policy lead to the same decisions. Exit code 1 means that one did not. A directory
stands for all files that nodes keep there (their --decisions), the oldest first; they may be written meanwhile. A last
line that is cut short, damaged lines, and records of another version's rules are left out and counted.

With --policy (a fleet document, or a file with its classes alone) or --set, it says where that policy would have been
on another path. It starts from what was in use in the first record of each peer.`,
		Example: "  landbridge replay decisions.jsonl\n  landbridge replay /var/log/landbridge --policy fleet.yaml\n  landbridge replay decisions.jsonl --set realtime.dwell=5s --set bulk.hysteresis=20%",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &replay{out: cmd.OutOrStdout(), all: all, set: set, other: make(map[string]*pathsel.Decision)}
			if policy != "" {
				p, err := config.LoadPolicy(policy)
				if err != nil {
					return err
				}
				r.policy = &p
			}
			for _, arg := range args {
				if err := r.read(cmd.InOrStdin(), arg); err != nil {
					return err
				}
			}
			return r.summary()
		},
	}
	cmd.Flags().StringVar(&policy, "policy", "", "compare with the classes of this `FILE`")
	cmd.Flags().StringArrayVar(&set, "set", nil, "compare with one knob changed, `CLASS.KEY=VALUE`; may be repeated")
	cmd.Flags().BoolVar(&all, "all", false, "print every record's choices, not only moves")
	return cmd
}

// replay is one run over a log.
type replay struct {
	out    io.Writer
	all    bool
	set    []string
	policy *pathsel.Policy              // nil: the records' own
	other  map[string]*pathsel.Decision // by peer, what the other policy has decided so far

	node string // whose log it is, where file names say so

	records, wrong    int
	cut, versions     int // lines that were cut short, and records of other versions
	damaged           int // lines that are no records
	moves, otherMoves [pathsel.NumClasses]int
	apart             [pathsel.NumClasses]int // records in which the two are on different paths
	differs           map[string]bool         // peer and class: they were in the record before
}

// read reads a log: a file, all files of a directory, or standard input.
func (r *replay) read(stdin io.Reader, arg string) error {
	if arg == "-" {
		return r.run(stdin, arg)
	}
	var files []journal.File
	st, err := os.Stat(arg)
	if err == nil && st.IsDir() {
		if files, err = journal.Files(arg); err == nil && len(files) == 0 {
			err = fmt.Errorf("%s holds no files of a decision log", arg)
		}
	}
	if err != nil {
		return cli.Usage(fmt.Errorf("decision log: %w", err))
	}
	if !st.IsDir() {
		return r.file(arg)
	}
	for _, f := range files {
		r.node = f.Name
		err := r.file(f.Path())
		if errors.Is(err, os.ErrNotExist) { // compressed meanwhile, or dropped as the oldest
			err = r.file(f.Path() + ".zst")
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (r *replay) file(path string) error {
	in, err := journal.OpenFile(path)
	if err != nil {
		return cli.Usage(fmt.Errorf("decision log: %w", err))
	}
	defer in.Close()
	return r.run(in, path)
}

// nextLine reads a line of at most pathsel.MaxRecord bytes, which are valid until the next one is read; of a longer one it
// returns the beginning and says so. whole means that its newline was there. The error is io.EOF behind the last line.
func nextLine(in *bufio.Reader, buf []byte) (line []byte, long, whole bool, err error) {
	line = buf[:0]
	for {
		part, err := in.ReadSlice('\n')
		whole = err == nil
		if room := pathsel.MaxRecord + 1 - len(line); len(part) > room {
			part, long = part[:room], true
		}
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF && len(line) > 0:
			return line, long, false, nil
		default:
			return bytes.TrimRight(line, "\r\n"), long, whole, err
		}
	}
}

func (r *replay) run(in io.Reader, name string) error {
	if r.differs == nil {
		r.differs = make(map[string]bool)
	}
	var first error // what is wrong with the first damaged line
	before := r.records + r.versions
	br, buf := bufio.NewReaderSize(in, 64<<10), []byte(nil)
	for n := 1; ; n++ {
		line, long, whole, err := nextLine(br, buf)
		if err == io.EOF {
			break
		}
		if err != nil {
			return cli.Usage(fmt.Errorf("%s: %w", name, err))
		}
		if buf = line; len(line) == 0 {
			continue
		}
		rec, err := pathsel.ReadRecord(line)
		if long {
			err = fmt.Errorf("a line of more than %d bytes: %w", pathsel.MaxRecord, pathsel.ErrRecord)
		}
		switch {
		case err != nil && !whole:
			r.cut++
			continue
		case errors.Is(err, pathsel.ErrVersion):
			r.versions++
			continue
		case err != nil:
			err = fmt.Errorf("%s:%d: %w", name, n, err)
			if r.damaged++; first == nil {
				first = err
			}
			if r.damaged <= maxDamaged {
				fmt.Fprintf(r.out, "%v\n", err)
			}
			continue
		}
		if err := r.prepare(rec); err != nil {
			return cli.Usage(err)
		}
		r.records++
		if r.policy != nil {
			r.compare(rec)
			continue
		}
		if err := rec.Verify(); err != nil {
			r.wrong++
			fmt.Fprintf(r.out, "%s:%d: replays to another decision: %v\n", name, n, err)
		}
		r.show(rec)
	}
	if first != nil && r.records+r.versions == before && r.node == "" {
		return cli.Usage(first) // no log at all
	}
	return nil
}

// maxDamaged bounds the damaged lines that are shown; the rest is counted.
const maxDamaged = 10

// prepare makes the policy to compare with from the first record's, where only knobs are changed.
func (r *replay) prepare(rec *pathsel.Record) error {
	if r.records > 0 || r.policy == nil && len(r.set) == 0 {
		return nil
	}
	if r.policy == nil {
		p := rec.Policy
		r.policy = &p
	}
	for _, s := range r.set {
		if err := config.SetPolicy(r.policy, s); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) show(rec *pathsel.Record) {
	for i := range rec.After.Classes {
		c, before := &rec.After.Classes[i], &rec.Before.Classes[i]
		moved := c.OK != before.OK || c.OK && c.Path != before.Path
		if moved && before.OK {
			r.moves[i]++
		}
		if moved || r.all {
			fmt.Fprintf(r.out, "%s  %s  %-11s  %-8s  %s\n", wallTime(rec), rec.Peer, c.Class, pathName(rec, c), c.Reason(rec.Now))
		}
	}
}

// compare decides by the other policy, from what it had decided before.
func (r *replay) compare(rec *pathsel.Record) {
	peer := r.node + "/" + rec.Peer
	before := r.other[peer]
	if before == nil {
		before = &rec.Before
	}
	after := rec.Replay(r.policy, before)
	r.other[peer] = after
	for i := range after.Classes {
		c, was, logged, loggedWas := &after.Classes[i], &before.Classes[i], &rec.After.Classes[i], &rec.Before.Classes[i]
		if was.OK && (!c.OK || c.Path != was.Path) {
			r.otherMoves[i]++
		}
		if loggedWas.OK && (!logged.OK || logged.Path != loggedWas.Path) {
			r.moves[i]++
		}
		apart := c.OK != logged.OK || c.Path != logged.Path
		if apart {
			r.apart[i]++
		}
		key := peer + "/" + c.Class.String()
		switch {
		case apart && (!r.differs[key] || r.all):
			fmt.Fprintf(r.out, "%s  %s  %-11s  %s instead of %s: %s\n", wallTime(rec), rec.Peer, c.Class, pathName(rec, c), pathName(rec, logged), c.Reason(rec.Now))
		case !apart && r.differs[key]:
			fmt.Fprintf(r.out, "%s  %s  %-11s  both on %s\n", wallTime(rec), rec.Peer, c.Class, pathName(rec, c))
		}
		r.differs[key] = apart
	}
}

func (r *replay) summary() error {
	if r.cut > 0 {
		fmt.Fprintf(r.out, "%d lines were cut short, and left out\n", r.cut)
	}
	if r.damaged > 0 {
		fmt.Fprintf(r.out, "%d lines were damaged, and left out\n", r.damaged)
	}
	if r.versions > 0 {
		fmt.Fprintf(r.out, "%d records of another version were left out\n", r.versions)
	}
	if r.policy != nil {
		fmt.Fprintf(r.out, "%d decisions\n", r.records)
		for i := range r.apart {
			fmt.Fprintf(r.out, "  %-11s  %d moves instead of %d, on another path in %d decisions\n", pathsel.Class(i), r.otherMoves[i], r.moves[i], r.apart[i])
		}
		return nil
	}
	if r.wrong > 0 {
		return fmt.Errorf("%d of %d decisions replay to another one", r.wrong, r.records)
	}
	fmt.Fprintf(r.out, "%d decisions replay to the same; moves:", r.records)
	for i, n := range r.moves {
		fmt.Fprintf(r.out, " %s %d", pathsel.Class(i), n)
	}
	fmt.Fprintln(r.out)
	return nil
}

func wallTime(rec *pathsel.Record) string { return rec.Wall.UTC().Format(time.DateTime + ".000") }

func pathName(rec *pathsel.Record, c *pathsel.Choice) string {
	if !c.OK {
		return "none"
	}
	for i := range rec.States {
		if rec.States[i].ID == c.Path {
			return rec.States[i].Name
		}
	}
	return fmt.Sprintf("path %d", c.Path)
}
