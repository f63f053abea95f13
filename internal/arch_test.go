// Package internal_test holds what is true of the module as a whole.
package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/landbridge/landbridge/"

// outside are the ways to sockets, kernels and processes.
var outside = []string{"net", "os", "os/...", "syscall", "golang.org/x/sys/...", "github.com/vishvananda/netlink/...", "github.com/cilium/ebpf/...",
	"github.com/quic-go/quic-go/..."}

// arrows are those of DESIGN section 3: what a package must not reach, by itself or through others of the module. Tests
// are free.
var arrows = []struct {
	from   string
	never  []string
	except []string
}{
	{from: "fec", never: append([]string{module + "..."}, outside...)},
	{from: "tunnel/bond/rate", never: append([]string{module + "..."}, outside...)},
	{from: "pathsel", never: append([]string{module + "bpf/...", module + "tunnel/...", module + "internal/...", module + "bench/..."}, outside...), except: []string{"net/netip"}},
	{from: "tunnel/bond", never: []string{module + "tunnel", module + "tunnel/capture/...", module + "tunnel/compress/...", module + "bpf/...", module + "bench/...",
		module + "internal/lab/...", module + "internal/node/...", module + "internal/config/...", module + "internal/admin/...", module + "cmd/...",
		"github.com/vishvananda/netlink/...", "github.com/cilium/ebpf/..."}},
	{from: "tunnel", never: []string{module + "internal/lab/...", module + "internal/node/...", module + "internal/admin/...", module + "bench/...", module + "cmd/..."}},
	{from: "tunnel/compress", never: append([]string{module + "..."}, "net", "syscall")},
	{from: "bpf", never: []string{module + "..."}},
	{from: "bench/wan", never: []string{module + "..."}},
	{from: "internal/config", never: []string{module + "tunnel/...", module + "bpf/...", module + "bench/...", module + "internal/lab/...", module + "internal/node/..."}},
	{from: "internal/node", never: []string{module + "internal/lab/...", module + "bench/...", module + "cmd/..."}},
}

// matches tells whether an import falls under a pattern: a path, or a path and all under it.
func matches(imp, pattern string) bool {
	if under, ok := strings.CutSuffix(pattern, "/..."); ok {
		return imp == under || strings.HasPrefix(imp, under+"/")
	}
	return imp == pattern
}

// moduleImports maps each package of the module to what its non-test files import.
func moduleImports(t *testing.T) map[string][]string {
	t.Helper()
	const root = ".."
	imports := map[string][]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); p != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		pkg := path.Join(strings.TrimSuffix(module, "/"), filepath.ToSlash(rel))
		for _, i := range f.Imports {
			imp, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports[pkg] = append(imports[pkg], imp)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return imports
}

// TestArrows keeps the layers apart.
func TestArrows(t *testing.T) {
	imports := moduleImports(t)
	for _, a := range arrows {
		t.Run(a.from, func(t *testing.T) {
			from := module + a.from
			if len(imports[from]) == 0 {
				t.Fatal("the package imports nothing: the table is out of date")
			}
			via := map[string]string{from: ""}
			for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
				for _, imp := range imports[queue[0]] {
					if imp == from || slices.ContainsFunc(a.except, func(p string) bool { return matches(imp, p) }) {
						continue
					}
					if slices.ContainsFunc(a.never, func(p string) bool { return matches(imp, p) }) {
						chain := imp
						for p := queue[0]; p != ""; p = via[p] {
							chain = strings.TrimPrefix(p, module) + " > " + chain
						}
						t.Errorf("%s", chain)
						continue
					}
					if _, seen := via[imp]; !seen && strings.HasPrefix(imp, module) {
						via[imp] = queue[0]
						queue = append(queue, imp)
					}
				}
			}
		})
	}
}

// pure are the packages that are state machines: all they may import, and neither clocks nor goroutines.
var pure = map[string][]string{
	"fec":           {"encoding/binary", "errors", "fmt", "math", "math/bits", "slices", "time", "github.com/klauspost/reedsolomon"},
	"pathsel":       {"bytes", "encoding/json", "errors", "fmt", "io", "math", "slices", "strings", "text/tabwriter", "time", module + "pathsel/stamp"},
	"pathsel/stamp": {"crypto/subtle", "encoding/binary", "errors", "fmt", "math/bits", "time"},
}

// clocks are what package time has beside durations and dates.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

// TestPure keeps sockets, clocks and logs out of the state machines.
func TestPure(t *testing.T) {
	for pkg, allowed := range pure {
		t.Run(pkg, func(t *testing.T) {
			names, err := filepath.Glob(filepath.Join("..", pkg, "*.go"))
			if err != nil || len(names) == 0 {
				t.Fatalf("no files found: %v", err)
			}
			for _, name := range names {
				if strings.HasSuffix(name, "_test.go") {
					continue
				}
				file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, i := range file.Imports {
					if imp, _ := strconv.Unquote(i.Path.Value); !slices.Contains(allowed, imp) {
						t.Errorf("%s imports %s", name, imp)
					}
				}
				ast.Inspect(file, func(n ast.Node) bool {
					switch n := n.(type) {
					case *ast.GoStmt:
						t.Errorf("%s starts a goroutine", name)
					case *ast.SelectorExpr:
						if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
							t.Errorf("%s uses time.%s", name, n.Sel.Name)
						}
					}
					return true
				})
			}
		})
	}
}
