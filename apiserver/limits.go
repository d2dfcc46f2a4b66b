package apiserver

import (
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/fairness"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/rest"
)

// limits is how many requests are served at once. A watch counts until it has
// begun; other long-running requests do not count.
type limits struct {
	slots   *fairness.Slots
	metrics *metrics
}

func newLimits(l Limits, m *metrics) *limits {
	return &limits{slots: fairness.New(l.MaxRequests, bootstrap.PriorityLevels(), bootstrap.FlowSchemas()), metrics: m}
}

func (l *limits) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := request.From(r.Context())
		long := info.IsLongRunning(r)
		if long {
			defer l.metrics.running(info)()
			if info.Verb != "watch" {
				next.ServeHTTP(w, r)
				return
			}
		}
		release, ok := l.slots.Take(access(r))
		if !ok {
			l.metrics.dropped(requestKind(info))
			w.Header().Set("Retry-After", "1")
			rest.WriteError(w, r, apierrors.NewTooManyRequests("too many requests, please try again later", 1))
			return
		}
		defer release()
		if long {
			next.ServeHTTP(&response{ResponseWriter: w, begun: release}, r)
			return
		}
		defer l.metrics.serving(requestKind(info))()
		next.ServeHTTP(w, r)
	})
}

// requestKind is the label of metrics.
func requestKind(info *request.Info) string {
	if slices.Contains([]string{"get", "list", "watch"}, info.Verb) {
		return "readOnly"
	}
	return "mutating"
}
