package apiserver

import (
	"context"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/fairness"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/rest"
)

// limits is how many requests are served at once. A watch counts until it has
// begun; other long-running requests do not count. What another server serves
// does not count either: that one has limits of its own, and may be slow.
type limits struct {
	slots   *fairness.Slots
	metrics *metrics
	passed  func(path string) bool // on to another server
}

func newLimits(l Limits, m *metrics, passed func(path string) bool) *limits {
	return &limits{slots: fairness.New(l.MaxRequests, bootstrap.PriorityLevels(), bootstrap.FlowSchemas()), metrics: m, passed: passed}
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
		release, ok := func() {}, true
		if !l.passed(r.URL.Path) {
			release, ok = l.slots.Take(access(r.Context()))
		}
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

// mostHeavy is how much heavy work goes on at once. It is divided as requests
// are; every level has one place of its own.
const mostHeavy = 12

// takeHeavy takes places for heavy work, whose requests need not be there any
// more when it ends. The server's own work has a place always.
func takeHeavy() func(context.Context) (release func(), ok bool) {
	slots := fairness.New(mostHeavy, bootstrap.PriorityLevels(), bootstrap.FlowSchemas())
	return func(ctx context.Context) (release func(), ok bool) {
		if request.User(ctx) == nil || request.From(ctx) == nil {
			return func() {}, true
		}
		return slots.Take(access(ctx))
	}
}

// requestKind is the label of metrics.
func requestKind(info *request.Info) string {
	if slices.Contains([]string{"get", "list", "watch"}, info.Verb) {
		return "readOnly"
	}
	return "mutating"
}
