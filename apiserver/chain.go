package apiserver

import (
	"net/http"
	"slices"

	"github.com/skiff-k8s/skiff/apiserver/request"
)

// filter wraps a handler with one step that every request takes.
type filter func(http.Handler) http.Handler

// chain makes the handler of the server. Filters run from top to bottom.
func (s *Server) chain() http.Handler {
	m := newMetrics(s.config.Metrics, s.serves)
	limits := newLimits(s, m)
	admit := admittance{s, newAccessMetrics(s.config.Metrics)}
	filters := []filter{
		grow,
		s.recoverPanics,
		s.identify, // Audit-Id
		s.headers,  // Cache-Control
		s.parse,    // request.Info
		s.log,
		m.measure,
		s.limitTime, // deadline, also of body and answer; shutdown ends long-running requests
		s.warn,
		admit.authenticate, // 401
		s.trace,            // whom to believe which trace a request belongs to depends on who asks
		s.audit,            // knows who asks, and sees all that becomes of it
		s.impersonate,
		limits.limit,    // waits for a seat, or 429
		admit.authorize, // 403
	}
	h := s.dispatch()
	for _, f := range slices.Backward(filters) {
		h = f(h)
	}
	return h
}

// dispatch sends a request to what serves it. What package rest does not know
// comes back to Config.Other.
func (s *Server) dispatch() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if extension := s.config.Extensions(r.URL.Path); extension != nil {
			extension.ServeHTTP(w, r)
			return
		}
		if request.From(r.Context()).IsResource {
			s.rest.ServeHTTP(w, r)
			return
		}
		s.config.Other.ServeHTTP(w, r)
	})
}
