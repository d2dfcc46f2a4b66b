package apiserver

import (
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/rest"
)

// limits is how many requests are served at once, reading and writing apart,
// so that neither starves the other. Long-running requests do not count, nor
// do the server's administrators wait.
type limits struct {
	reading, writing chan struct{}
	metrics          *metrics
}

func newLimits(reading, writing int, m *metrics) *limits {
	return &limits{reading: make(chan struct{}, reading), writing: make(chan struct{}, writing), metrics: m}
}

func (l *limits) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := request.From(r.Context())
		if info.IsLongRunning(r) {
			defer l.metrics.running(info)()
			next.ServeHTTP(w, r)
			return
		}
		slots, kind := l.writing, "mutating"
		if slices.Contains([]string{"get", "list", "watch"}, info.Verb) {
			slots, kind = l.reading, "readOnly"
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			if !slices.Contains(request.User(r.Context()).GetGroups(), user.SystemPrivilegedGroup) {
				l.metrics.dropped(kind)
				w.Header().Set("Retry-After", "1")
				rest.WriteError(w, r, apierrors.NewTooManyRequests("too many requests, please try again later", 1))
				return
			}
		}
		defer l.metrics.serving(kind)()
		next.ServeHTTP(w, r)
	})
}
