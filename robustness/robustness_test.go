package main

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/robustness/disk"
	"github.com/skiff-k8s/skiff/robustness/network"
	"github.com/skiff-k8s/skiff/robustness/server"
	"github.com/skiff-k8s/skiff/robustness/traffic"
)

func TestMain(m *testing.M) {
	disk.Confine()
	if err := network.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// local are the engines that need nothing but this process.
var local = map[string]func(t *testing.T) backend.Backend{
	"memory": func(*testing.T) backend.Backend { return memory.New() },
	"file":   func(t *testing.T) backend.Backend { return opened(t, openFile) },
	"sqlite": func(t *testing.T) backend.Backend { return opened(t, openSQLite) },
}

func opened(t *testing.T, open func(dir string) (backend.Backend, error)) backend.Backend {
	t.Helper()
	b, err := open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func plan(seed uint64, configs ...*rest.Config) traffic.Plan {
	return traffic.Plan{Seed: seed, Clients: 8, Operations: 60, Keys: 4, Namespace: "default", Servers: configs}
}

// Where nothing goes wrong, every request has an answer, and all answers have
// an explanation.
func TestHistories(t *testing.T) {
	for name, open := range local {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%s/seed=%d", name, seed), func(t *testing.T) {
				b := open(t)
				defer b.Close()
				s := server.NewInProcess(0, slog.New(slog.NewTextHandler(t.Output(), nil)))
				if err := s.Start(b); err != nil {
					t.Fatal(err)
				}
				defer s.Stop()
				expectNothing(t, plan(seed, s.Config()))
			})
		}
	}
}

// Two servers share a backend: what one answers fits what the other does.
func TestTwoServers(t *testing.T) {
	for name, open := range local {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s/seed=%d", name, seed), func(t *testing.T) {
				b := open(t)
				defer b.Close()
				var configs []*rest.Config
				for range 2 {
					s := server.NewInProcess(0, slog.New(slog.NewTextHandler(t.Output(), nil)))
					if err := s.Start(b); err != nil {
						t.Fatal(err)
					}
					defer s.Stop()
					configs = append(configs, s.Config())
				}
				expectNothing(t, plan(seed, configs...))
			})
		}
	}
}

// expectNothing follows a plan, of which all is to be explained.
func expectNothing(t *testing.T, p traffic.Plan) {
	t.Helper()
	h, err := traffic.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range h.Check() {
		t.Error(v)
	}
	t.Logf("%d operations, %d watches with %d events", len(h.Operations), len(h.Sessions), h.Changes())
}

// The program that is shipped keeps its promises on every storage, whatever goes
// wrong: a little of what make robustness does.
func TestShipped(t *testing.T) {
	program := filepath.Join(t.TempDir(), "skiff")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/skiff").CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	for name, faults := range map[string][]string{
		"skiff file":     {"power loss at sync"},
		"skiff sqlite":   {"power loss at sync", clockJump},
		"postgres twice": {"partition", "database kill at sync", "kill at answer"},
		"mysql twice":    {"cut at answer", "database kill at sync"},
		"etcd twice":     {"partition", "database kill at sync", compaction},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(1, 0))
			p := traffic.Plan{Seed: 1, Clients: 6, Operations: 40, Keys: 3}
			h, done, err := subjectTable[name](t.Context(), settings{skiff: program, faults: faults}, t.TempDir(), random, p)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range h.Check() {
				t.Error(v)
			}
			if len(done) == 0 {
				t.Error("nothing went wrong")
			}
		})
	}
}
