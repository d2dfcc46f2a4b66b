package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/robustness/server"
	"github.com/skiff-k8s/skiff/robustness/traffic"
)

// engines are those that need nothing but this process.
var engines = map[string]func(t *testing.T) backend.Backend{
	"memory": func(*testing.T) backend.Backend { return memory.New() },
	"file": func(t *testing.T) backend.Backend {
		b, err := file.Open(filepath.Join(t.TempDir(), "skiff.db"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	},
}

func plan(seed uint64, configs ...*rest.Config) traffic.Plan {
	return traffic.Plan{Seed: seed, Clients: 8, Operations: 60, Keys: 4, Namespace: "default", Servers: configs}
}

// Where nothing goes wrong, every request has an answer, and all answers have
// an explanation.
func TestHistories(t *testing.T) {
	for name, open := range engines {
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
	for name, open := range engines {
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
