package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/backend/sqlite"
	"github.com/skiff-k8s/skiff/robustness/history"
	"github.com/skiff-k8s/skiff/robustness/server"
	"github.com/skiff-k8s/skiff/robustness/traffic"
)

// names are the keys of a table, in order.
func names[T any](table map[string]T) []string { return slices.Sorted(maps.Keys(table)) }

// subject makes one history of a server that it starts in a folder and stops.
type subject func(ctx context.Context, s settings, dir string, random *rand.Rand, p traffic.Plan) (*history.History, []traffic.Fault, error)

// subjectTable is what can be tested.
var subjectTable = map[string]subject{
	"memory":       inProcess(1, func(string) (backend.Backend, error) { return memory.New(), nil }),
	"memory twice": inProcess(2, func(string) (backend.Backend, error) { return memory.New(), nil }),
	"file":         inProcess(1, openFile),
	"file twice":   inProcess(2, openFile),
	"sqlite":       inProcess(1, openSQLite),
	"skiff file":   shipped("file"),
	"skiff sqlite": shipped("sqlite"),

	"postgres":       onDatabase("postgres", 1),
	"postgres twice": onDatabase("postgres", 2),
	"mysql":          onDatabase("mysql", 1),
	"mysql twice":    onDatabase("mysql", 2),
	"etcd":           onDatabase("etcd", 1),
	"etcd twice":     onDatabase("etcd", 2),
}

func openFile(dir string) (backend.Backend, error) { return file.Open(filepath.Join(dir, "skiff.db")) }

func openSQLite(dir string) (backend.Backend, error) {
	return sqlite.Open(filepath.Join(dir, "skiff.sqlite"))
}

// inProcess are some servers in this process on one backend. They keep history
// for a moment, and one after the other is started anew.
func inProcess(servers int, open func(dir string) (backend.Backend, error)) subject {
	return func(ctx context.Context, _ settings, dir string, random *rand.Rand, p traffic.Plan) (*history.History, []traffic.Fault, error) {
		b, err := open(dir)
		if err != nil {
			return nil, nil, err
		}
		defer b.Close()
		p.Forgets, p.Namespace = true, "default"
		var all []*server.InProcess
		for range servers {
			s := server.NewInProcess(shortHistory, slog.New(slog.DiscardHandler))
			if err := s.Start(b); err != nil {
				return nil, nil, err
			}
			defer s.Stop()
			all, p.Servers = append(all, s), append(p.Servers, s.Config())
		}
		for range random.IntN(4) {
			p.Faults = append(p.Faults, compactAndRestart(all[random.IntN(len(all))], b))
		}
		h, err := traffic.Run(ctx, p)
		return h, p.Faults, err
	}
}

// shortHistory is short enough that histories see it end.
const shortHistory = 250 * time.Millisecond

// compactAndRestart forgets all history and has the server begin with what the
// backend has.
func compactAndRestart(s *server.InProcess, b backend.Backend) traffic.Fault {
	return traffic.Fault{Name: "compaction and restart", Do: func(ctx context.Context) error {
		revision, err := b.Revision(ctx)
		if err == nil {
			err = b.Compact(ctx, revision)
		}
		if err != nil {
			return err
		}
		s.Stop()
		return s.Start(b)
	}}
}

// shipped is the program, on a file of an engine, with a disk that fails.
func shipped(engine string) subject {
	return func(ctx context.Context, s settings, dir string, random *rand.Rand, p traffic.Plan) (*history.History, []traffic.Fault, error) {
		keys, err := server.NewKeys(filepath.Join(dir, "pki"))
		if err != nil {
			return nil, nil, err
		}
		m, err := newMachine(dir, s.skiff, engine, keys, random)
		if err != nil {
			return nil, nil, err
		}
		p.Faults = choose(random, m.faults(), s.faults, 1+random.IntN(4))
		m.jumps = named(p.Faults, clockJump)
		if err := m.server.Start(ctx); err != nil {
			return nil, nil, err
		}
		defer m.server.Kill()
		p.Servers, p.Namespace = []*rest.Config{m.server.Config()}, "default"
		h, err := traffic.Run(ctx, p)
		return h, p.Faults, err
	}
}

// total is what was done to one server.
type total struct {
	histories, operations, unanswered, watches, events, bad int
	faults                                                  map[string]int
}

// one makes one history and judges it.
func (t *total) one(ctx context.Context, s settings, name, dir string, seed uint64) error {
	dir, err := os.MkdirTemp(dir, "history-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	random := rand.New(rand.NewPCG(seed, 0))
	p := traffic.Plan{Seed: seed, Clients: 4 + random.IntN(9), Operations: 40 + random.IntN(80), Keys: 2 + random.IntN(5)}
	h, faults, err := subjectTable[name](ctx, s, dir, random, p)
	if err != nil {
		return err
	}
	t.histories++
	t.operations += len(h.Operations)
	t.watches += len(h.Sessions)
	t.events += h.Changes()
	for _, f := range faults {
		t.faults[f.Name]++
	}
	for _, o := range h.Operations {
		if o.Outcome == history.Unknown {
			t.unanswered++
		}
	}
	violations := h.Check()
	if len(violations) == 0 {
		return nil
	}
	t.bad++
	return t.keep(s, name, dir, seed, faults, violations)
}

// keep writes down what cannot have been, and what the servers said.
func (t *total) keep(s settings, name, dir string, seed uint64, faults []traffic.Fault, violations []string) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s, seed %d", name, seed)
	for _, f := range faults {
		fmt.Fprintf(&text, ", %s", f.Name)
	}
	fmt.Fprintf(&text, "\n\n%s\n", strings.Join(violations, "\n"))
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err
	}
	for _, log := range logs {
		said, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "\n%s:\n%s", filepath.Base(log), said)
	}
	path := filepath.Join(s.dir, fmt.Sprintf("robustness-%s-%d.txt", strings.ReplaceAll(name, " ", "-"), seed))
	fmt.Printf("%s, seed %d: %d things cannot have been; see %s\n", name, seed, len(violations), path)
	return os.WriteFile(path, []byte(text.String()), 0o644)
}

// report prints what was done. The error says that something was found.
func report(totals map[string]*total) error {
	fmt.Println("| server | histories | operations | without an answer | watches | events | faults | not explained |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	bad := 0
	for _, name := range names(totals) {
		t := totals[name]
		var faults []string
		for _, f := range names(t.faults) {
			faults = append(faults, fmt.Sprintf("%d %s", t.faults[f], f))
		}
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %s | %d |\n", name, t.histories, t.operations, t.unanswered, t.watches, t.events, strings.Join(faults, ", "), t.bad)
		bad += t.bad
	}
	if bad > 0 {
		return fmt.Errorf("%d histories are not explained", bad)
	}
	return nil
}
