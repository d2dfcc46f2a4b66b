package health_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/version"

	"github.com/skiff-k8s/skiff/apiserver/health"
)

func TestHealth(t *testing.T) {
	broken := health.Check{Name: "storage", Probe: func(context.Context) error { return errors.New("disk on fire") }}
	mux := http.NewServeMux()
	health.Register(mux, health.Config{
		Live: []health.Check{health.Ping}, Ready: []health.Check{health.Ping, broken},
		Metrics: prometheus.NewRegistry(), Paths: func() []string { return []string{"/api"} },
	})
	for _, c := range []struct {
		path string
		code int
		body string
	}{
		{"/healthz", 200, "ok"},
		{"/livez", 200, "ok"},
		{"/livez?verbose", 200, "[+]ping ok\nlivez check passed\n"},
		{"/livez/ping", 200, "ok"},
		{"/livez/other", 404, "404 page not found\n"},
		{"/readyz", 500, "[+]ping ok\n[-]storage failed: reason withheld\nreadyz check failed\n"},
		{"/readyz/storage", 500, "internal server error: disk on fire\n"},
		{"/readyz?exclude=storage", 200, "ok"},
		{"/readyz?verbose=1&exclude=storage", 200, "[+]ping ok\n[+]storage excluded: ok\nreadyz check passed\n"},
		{"/livez?verbose&exclude=a&exclude=b", 200, "[+]ping ok\nwarn: some health checks cannot be excluded: no matches for \"a\",\"b\"\nlivez check passed\n"},
		{"/metrics", 200, ""},
		{"/nope", 404, "404 page not found\n"},
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
		if w.Code != c.code || w.Body.String() != c.body {
			t.Errorf("%s: got %d %q, want %d %q", c.path, w.Code, w.Body, c.code, c.body)
		}
	}

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	var index struct{ Paths []string }
	if err := json.Unmarshal(w.Body.Bytes(), &index); err != nil {
		t.Fatal(err)
	}
	want := []string{"/api", "/healthz", "/healthz/ping", "/livez", "/livez/ping", "/metrics", "/metrics/slis", "/readyz", "/readyz/ping", "/readyz/storage", "/version"}
	if !slices.Equal(index.Paths, want) {
		t.Errorf("got paths %q, want %q", index.Paths, want)
	}
}

func TestVersion(t *testing.T) {
	mux := http.NewServeMux()
	health.Register(mux, health.Config{})
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/version", nil))
	var info version.Info
	if err := json.Unmarshal(w.Body.Bytes(), &info); err != nil {
		t.Fatal(err)
	}
	if info.Major != "1" || info.Minor != "36" || info.GitVersion != "v1.36.3+skiff" {
		t.Errorf("got %s.%s %s, want 1.36 v1.36.3+skiff", info.Major, info.Minor, info.GitVersion)
	}
}
