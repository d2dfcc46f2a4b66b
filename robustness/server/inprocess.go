// Package server starts API servers to be tested for robustness: in this
// process, where everything about them can be chosen, or as the program that is
// shipped.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/builtin"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// InProcess is an API server of ConfigMaps alone, without admission, over a
// backend of the caller's.
type InProcess struct {
	history time.Duration
	log     *slog.Logger

	mu     sync.RWMutex
	server *apiserver.Server // nil while it is stopped
}

// NewInProcess returns a server that keeps history for a time (0: as long as
// the product does), and is not started.
func NewInProcess(history time.Duration, log *slog.Logger) *InProcess {
	return &InProcess{history: history, log: log}
}

// Start serves what is in b until Stop.
func (p *InProcess) Start(b backend.Backend) error {
	s, err := apiserver.New(context.Background(), apiserver.Config{
		Backend:       b,
		Resources:     configMaps(),
		Authenticator: authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) { return nil, false, nil }),
		Authorizer: authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
			return authorizer.DecisionAllow, "", nil
		}),
		History:       p.history,
		BookmarkEvery: 50 * time.Millisecond,
		Log:           p.log,
	})
	if err != nil {
		return fmt.Errorf("start the API server: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = s
	return nil
}

// Stop ends the server: requests fail, watches end. The backend stays open.
func (p *InProcess) Stop() {
	p.mu.Lock()
	s := p.server
	p.server = nil
	p.mu.Unlock()
	if s != nil {
		s.Close()
	}
}

// Config reaches the server, whichever is started.
func (p *InProcess) Config() *rest.Config {
	return &rest.Config{Host: "https://in-process", Transport: p, QPS: -1}
}

var errStopped = errors.New("the server is stopped")

// RoundTrip reaches the server as an administrator.
func (p *InProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.RLock()
	s := p.server
	p.mu.RUnlock()
	if s == nil {
		return nil, &net.OpError{Op: "dial", Err: errStopped}
	}
	admin := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}
	return s.Transport(admin).RoundTrip(r)
}

func configMaps() (rows []*resource.Resource) {
	for _, r := range builtin.Resources(builtin.Deps{}) {
		if r.Group == "" && r.Plural == "configmaps" {
			rows = append(rows, r)
		}
	}
	return rows
}
