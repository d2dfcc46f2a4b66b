// Package health serves what is not an API resource: /healthz, /livez and
// /readyz with their checks, /version, /metrics, and the list of paths at /.
package health

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/skiff-k8s/skiff/apiserver/rest"
	"github.com/skiff-k8s/skiff/apiserver/version"
)

// Check is one thing that must be well. Probe returns what is not; the text is
// logged, and told who asks for that check alone, as in Kubernetes: the paths of
// all checks are open to anyone, those of single ones are not.
type Check struct {
	Name  string
	Probe func(ctx context.Context) error
}

// Ping is the check that the server answers at all.
var Ping = Check{Name: "ping", Probe: func(context.Context) error { return nil }}

// Config of Register.
type Config struct {
	// Live are the checks of /livez and /healthz: a server that fails them
	// should be restarted. Healthy are of /healthz alone. Ready are those of /readyz: a server that fails them
	// should get no requests. What they found is served at /metrics/slis (KEP-3466).
	Live, Healthy, Ready []Check
	// Metrics is served at /metrics; nil: it is not.
	Metrics prometheus.Gatherer
	// Paths lists all other paths of the server for the index.
	Paths func() []string
}

// Register adds all paths of the package to mux, and returns what lists all paths of the server.
func Register(mux *http.ServeMux, c Config) func() []string {
	paths := []string{"/metrics/slis", "/version"}
	found := newResults()
	mux.Handle("/metrics/slis", found.handler())
	for _, set := range []struct {
		name   string
		checks []Check
	}{{"healthz", slices.Concat(c.Live, c.Healthy)}, {"livez", c.Live}, {"readyz", c.Ready}} {
		mux.Handle("/"+set.name, all(set.name, set.checks, found))
		paths = append(paths, "/"+set.name)
		for _, check := range set.checks {
			path := "/" + set.name + "/" + check.Name
			mux.Handle(path, single(set.name, check, found))
			paths = append(paths, path)
		}
	}
	mux.HandleFunc("/version", serveVersion)
	mux.HandleFunc("/version/{$}", serveVersion)
	if c.Metrics != nil {
		mux.Handle("/metrics", promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{}))
		paths = append(paths, "/metrics")
	}
	all := func() []string {
		all := slices.Clone(paths)
		if c.Paths != nil {
			all = append(all, c.Paths()...)
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	index := func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, struct {
			Paths []string `json:"paths"`
		}{all()})
	}
	mux.HandleFunc("/{$}", index)
	mux.HandleFunc("/index.html", index)
	return all
}

// all runs every check that the query does not exclude.
func all(set string, checks []Check, found *results) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		excluded := make(map[string]bool)
		for _, name := range r.URL.Query()["exclude"] {
			for n := range strings.SplitSeq(name, ",") {
				excluded[n] = true
			}
		}
		_, verbose := r.URL.Query()["verbose"]
		var report strings.Builder
		failed := false
		for _, check := range checks {
			switch {
			case excluded[check.Name]:
				fmt.Fprintf(&report, "[+]%s excluded: ok\n", check.Name)
				delete(excluded, check.Name)
			case check.run(r.Context(), set, found) == nil:
				fmt.Fprintf(&report, "[+]%s ok\n", check.Name)
			default:
				failed = true
				fmt.Fprintf(&report, "[-]%s failed: reason withheld\n", check.Name)
			}
		}
		if len(excluded) > 0 {
			fmt.Fprintf(&report, "warn: some health checks cannot be excluded: no matches for %s\n", quoted(excluded))
		}
		plainText(w)
		switch {
		case failed:
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(w, "%s%s check failed\n", report.String(), set)
		case verbose:
			fmt.Fprintf(w, "%s%s check passed\n", report.String(), set)
		default:
			fmt.Fprint(w, "ok")
		}
	})
}

func single(set string, check Check, found *results) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := check.run(r.Context(), set, found); err != nil {
			http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, "ok")
	})
}

func (c Check) run(ctx context.Context, set string, found *results) error {
	err := c.Probe(ctx)
	found.note(set, c.Name, err == nil)
	if err != nil {
		slog.WarnContext(ctx, "health check failed", "check", c.Name, "error", err)
	}
	return err
}

func plainText(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

func quoted(names map[string]bool) string {
	var list []string
	for name := range names {
		list = append(list, fmt.Sprintf("%q", name))
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

func serveVersion(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		rest.WriteError(w, r, rest.ErrNoMethod)
		return
	}
	writeJSON(w, version.Info())
}

func writeJSON(w http.ResponseWriter, value any) {
	body, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}
