// Package maintain serves what operators ask of a server's storage, below
// /skiff/. Kubernetes has nothing of the kind, so that it is no resource and not in
// the index of paths; RBAC grants it as nonResourceURLs, at first to cluster-admin
// alone. Who may get /skiff/backup may read every Secret.
package maintain

import (
	"encoding/json"
	"log/slog"
	"net/http"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/snapshot"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// PathBackup streams a backup, in the format of package snapshot, of the newest
// revision. It says itself whether it is complete.
const PathBackup = "/skiff/backup"

// PathCheck answers with a store.Report in JSON.
const PathCheck = "/skiff/check"

// Config of Handler.
type Config struct {
	Backend backend.Backend
	Store   *store.Store // on Backend
	Log     *slog.Logger
}

// Handler serves what is below /skiff/. The caller has authorized the request.
func Handler(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+PathBackup, one(http.HandlerFunc(c.backup)))
	mux.Handle("GET "+PathCheck, one(http.HandlerFunc(c.check)))
	return mux
}

// one serves a request at a time: each takes much of the storage's time, and none
// takes a slot of the server.
func one(next http.Handler) http.Handler {
	place := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case place <- struct{}{}:
			defer func() { <-place }()
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "10")
			http.Error(w, "somebody else is being served "+r.URL.Path, http.StatusTooManyRequests)
		}
	})
}

func (c Config) backup(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	entries := 0
	if err := snapshot.Write(r.Context(), w, c.Backend, func(done, _ int) { entries = done }); err != nil {
		c.Log.ErrorContext(r.Context(), "A backup was not completed", "entries", entries, "error", err)
	}
}

func (c Config) check(w http.ResponseWriter, r *http.Request) {
	report, err := c.Store.Check(r.Context())
	if err != nil {
		http.Error(w, "check the storage: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(report) // a client that is gone hears nothing
}
