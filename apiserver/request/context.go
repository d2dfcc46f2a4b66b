package request

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/authentication/user"
)

type (
	aboutKey struct{}
	userKey  struct{}
)

// about is what filters find out of a request, one after the other and before anybody else has its context. It is one value in the
// context for all of them: a context more takes a copy of the request.
type about struct {
	auditID string
	info    *Info
	failure *error
	notes   *notes
}

func aboutOf(ctx context.Context) *about {
	a, _ := ctx.Value(aboutKey{}).(*about)
	return a
}

// with notes what set sets in ctx itself, if there is a place for it where nothing is yet. Else it returns another context, in
// which that takes the place of what is there.
func with(ctx context.Context, taken func(*about) bool, set func(*about)) context.Context {
	a := aboutOf(ctx)
	if a != nil && !taken(a) {
		set(a)
		return ctx
	}
	other := &about{}
	if a != nil {
		*other = *a
	}
	set(other)
	return context.WithValue(ctx, aboutKey{}, other)
}

// With returns a context that carries info, which is ctx if that is one of Begin, and carries none.
func With(ctx context.Context, info *Info) context.Context {
	return with(ctx, func(a *about) bool { return a.info != nil }, func(a *about) { a.info = info })
}

// From is the Info of ctx, or nil.
func From(ctx context.Context) *Info {
	if a := aboutOf(ctx); a != nil {
		return a.info
	}
	return nil
}

// WithUser returns a context that carries who asks.
func WithUser(ctx context.Context, u user.Info) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// User is who asks, or nil before authentication.
func User(ctx context.Context) user.Info {
	u, _ := ctx.Value(userKey{}).(user.Info)
	return u
}

// Begin returns the context of a request of which nothing is known yet but the id under which it is logged and audited. What was known of
// another, in which this one may have been made, is forgotten, who asks excepted.
func Begin(ctx context.Context, auditID string) context.Context {
	return context.WithValue(ctx, aboutKey{}, &about{auditID: auditID})
}

// AuditID is the id under which the request is logged, or empty.
func AuditID(ctx context.Context) string {
	if a := aboutOf(ctx); a != nil {
		return a.auditID
	}
	return ""
}

// WithFailure returns a context in which Fail leaves the error a request was
// answered with: ctx itself, as With does.
func WithFailure(ctx context.Context) (context.Context, *error) {
	err := new(error)
	return with(ctx, func(a *about) bool { return a.failure != nil }, func(a *about) { a.failure = err }), err
}

// Fail notes the error a request is answered with, for the log.
func Fail(ctx context.Context, err error) {
	if a := aboutOf(ctx); a != nil && a.failure != nil {
		*a.failure = err
	}
}

// notes are what is collected while a request is served. They may be written
// by several goroutines.
type notes struct {
	mu       sync.Mutex
	warn     func(text string)
	warnings []string
	audit    map[string]string
	decided  bool   // the request was judged, as follows
	decision string // empty: nothing could be decided
	reason   string
}

// Annotations of audit events that every request has.
const (
	decisionNote = "authorization.k8s.io/decision"
	reasonNote   = "authorization.k8s.io/reason"
)

// Decided annotates the audit event of the request with what authorization decided, if it could, and why. It does what Annotate would,
// for every request and at less cost.
func Decided(ctx context.Context, decision, reason string) {
	n := notesOf(ctx)
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.decided {
		n.decided, n.decision, n.reason = true, decision, reason
	}
}

func notesOf(ctx context.Context) *notes {
	if a := aboutOf(ctx); a != nil {
		return a.notes
	}
	return nil
}

// WithNotes returns a context that collects warnings and audit annotations, ctx
// itself, as With does; warn is called once for each new warning.
func WithNotes(ctx context.Context, warn func(text string)) context.Context {
	return with(ctx, func(a *about) bool { return a.notes != nil }, func(a *about) { a.notes = &notes{warn: warn} })
}

// Warn adds a text to the Warning headers of the answer, once.
func Warn(ctx context.Context, text string) {
	n := notesOf(ctx)
	if n == nil || text == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.Contains(n.warnings, text) {
		return
	}
	n.warnings = append(n.warnings, text)
	if n.warn != nil {
		n.warn(text)
	}
}

// Annotate adds an annotation to the audit event of the request. The first
// value of a key stays. A key has a domain, a slash and a name; one that has
// not, which a webhook may have sent, is left out.
func Annotate(ctx context.Context, key, value string) {
	n := notesOf(ctx)
	if n == nil || !strings.Contains(key, "/") || len(validation.IsQualifiedName(key)) > 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.audit[key]; ok {
		return
	}
	if n.audit == nil {
		n.audit = make(map[string]string)
	}
	n.audit[key] = value
}

// Annotations are the audit annotations of the request so far.
func Annotations(ctx context.Context) map[string]string {
	n := notesOf(ctx)
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	all := maps.Clone(n.audit)
	if !n.decided {
		return all
	}
	if all == nil {
		all = make(map[string]string)
	}
	all[reasonNote] = n.reason
	if n.decision != "" {
		all[decisionNote] = n.decision
	}
	return all
}
