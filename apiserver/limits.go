package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/fairness"
	"github.com/skiff-k8s/skiff/apiserver/request"
)

// limits is how many requests are served at once. A watch counts until it has
// begun; other long-running requests do not count. What another server serves
// does not count either: that one has limits of its own, and may be slow.
type limits struct {
	server  *Server
	metrics *metrics
	wait    time.Duration // for a seat, at most
}

func newLimits(s *Server, m *metrics) *limits {
	return &limits{server: s, metrics: m, wait: s.config.Limits.RequestTimeout / 4}
}

// Headers that say by which objects a request was limited.
const (
	schemaHeader = "X-Kubernetes-Pf-Flowschema-Uid"
	levelHeader  = "X-Kubernetes-Pf-Prioritylevel-Uid"
)

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
		if l.server.config.Extensions(r.URL.Path) != nil {
			l.serve(w, r, next, long, func() {})
			return
		}
		release, class, err := l.server.fairness.Take(r.Context(), fairness.Request{
			Attributes: attributes(r.Context()), Seats: func(most int) int { return l.seats(r, info, most) }, Patience: l.patience(r.Context()),
		})
		if info.Subresource != "log" { // kube-apiserver takes no seat for these; here those do that end by themselves
			w.Header()[schemaHeader], w.Header()[levelHeader] = []string{string(class.SchemaUID)}, []string{string(class.LevelUID)}
		}
		if err != nil {
			l.metrics.dropped(requestKind(info))
			w.Header().Set("Retry-After", "1")
			http.Error(w, "Too many requests, please try again later.", http.StatusTooManyRequests)
			return
		}
		defer release()
		l.serve(w, r, next, long, release)
	})
}

// patience is how long a request waits for its seats: no longer than a quarter of the time it has.
func (l *limits) patience(ctx context.Context) time.Duration {
	wait := l.wait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/4)
	}
	return max(1, wait) // 0 would be for ever
}

func (l *limits) serve(w http.ResponseWriter, r *http.Request, next http.Handler, long bool, begun func()) {
	if long {
		next.ServeHTTP(&response{ResponseWriter: w, begun: begun}, r)
		return
	}
	defer l.metrics.serving(requestKind(request.From(r.Context())))()
	next.ServeHTTP(w, r)
}

// perSeat is how many objects a list may read for a seat.
const perSeat = 100

// seats are how many a request takes, most at most: lists, and watches that begin with one, take more, the more objects they read.
func (l *limits) seats(r *http.Request, info *request.Info, most int) int {
	if info.Verb != "list" && info.Verb != "watch" || info.Name != "" || most == 1 {
		return 1
	}
	query := r.URL.Query()
	if version := query.Get("resourceVersion"); info.Verb == "watch" && version != "" && version != "0" && !isTrue(query.Get("sendInitialEvents")) {
		return 1
	}
	kind := l.server.find(schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource})
	if kind == nil || kind.IndexBy != "" && strings.Contains(info.FieldSelector, kind.IndexBy+"=") {
		return 1 // an index finds the objects
	}
	read := l.server.store.Count(kind.Stored, info.Namespace, most*perSeat)
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil && limit > 0 && info.FieldSelector == "" && info.LabelSelector == "" {
		read = min(read, limit)
	}
	return min(most, (read+perSeat-1)/perSeat)
}

func isTrue(value string) bool {
	yes, err := strconv.ParseBool(value)
	return err == nil && yes
}

// mostHeavy is how much heavy work goes on at once. It is divided as requests
// are by default; every level has one place of its own.
const mostHeavy = 12

// takeHeavy takes places for heavy work, whose requests need not be there any
// more when it ends. The server's own work has a place always.
func takeHeavy() func(context.Context) (release func(), ok bool) {
	slots := fairness.NewSlots(mostHeavy, bootstrap.PriorityLevels(), bootstrap.FlowSchemas())
	return func(ctx context.Context) (release func(), ok bool) {
		if request.User(ctx) == nil || request.From(ctx) == nil {
			return func() {}, true
		}
		return slots.Take(attributes(ctx))
	}
}

// requestKind is the label of metrics.
func requestKind(info *request.Info) string {
	if slices.Contains([]string{"get", "list", "watch"}, info.Verb) {
		return "readOnly"
	}
	return "mutating"
}
