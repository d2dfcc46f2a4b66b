package apiserver

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/audit"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/rest"
)

// audit has requests written down that the audit policy is about.
func (s *Server) audit(next http.Handler) http.Handler {
	if s.config.Audit == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		record := s.config.Audit.Begin(r, attributes(r.Context()))
		if record == nil {
			next.ServeHTTP(w, r)
			return
		}
		if err := record.Received(); err != nil {
			rest.WriteError(w, r, apierrors.NewInternalError(err))
			return
		}
		info := request.From(r.Context())
		long := info.IsLongRunning(r) || info.Subresource == "log" // also one that ends by itself
		out := &response{ResponseWriter: w}
		out.begun = func() { record.Started(out.code, long) }
		defer func() {
			if p := recover(); p != nil {
				record.Panicked(p)
				panic(p)
			}
			record.Completed(long)
		}()
		next.ServeHTTP(out, r.WithContext(audit.With(r.Context(), record)))
	})
}

// auditRefusal has a request written down that is refused before anybody knows who sent it. What it returns is what to answer.
func (s *Server) auditRefusal(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	record := s.config.Audit.Begin(r, attributes(r.Context()))
	if record == nil {
		return w, r
	}
	out := &response{ResponseWriter: w}
	out.begun = func() { record.Started(out.code, true) }
	return out, r.WithContext(audit.With(r.Context(), record))
}
