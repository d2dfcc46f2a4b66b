// Package apiservertest starts the whole API server in the process of a test:
// all kinds, roles and admission, over a backend in memory.
package apiservertest

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
)

// Start returns a server that is ready. It ends with the test, which fails if
// somebody has changed an object of the server's cache. change, if not nil, may
// change the options.
func Start(t testing.TB, change func(*apiserver.Options)) *apiserver.Server {
	t.Helper()
	keys := Authority()
	o := apiserver.Options{
		Backend: memory.New(), ClientCA: keys.Certificate, ServiceAccountKey: keys.Key,
		Advertise: netip.MustParseAddrPort("192.0.2.1:6443"),
		Log:       slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if _, benchmark := t.(*testing.B); !benchmark {
		o.Changed = func(difference string) { t.Errorf("what all share was changed: %s", difference) }
	}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := apiserver.Standard(ctx, o)
	if err != nil {
		cancel()
		t.Fatalf("start the API server: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		s.Close()
		o.Backend.Close()
	})
	return s
}

// Config reaches s in process as a user of groups; without groups as one of
// system:masters.
func Config(s *apiserver.Server, name string, groups ...string) *rest.Config {
	if len(groups) == 0 {
		groups = []string{user.SystemPrivilegedGroup}
	}
	return &rest.Config{
		Host:      "https://in-process",
		Transport: s.Transport(&user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}),
		QPS:       -1, UserAgent: name,
	}
}
