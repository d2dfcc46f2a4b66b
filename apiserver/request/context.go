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
	infoKey    struct{}
	userKey    struct{}
	auditIDKey struct{}
	notesKey   struct{}
	failureKey struct{}
)

// With returns a context that carries info.
func With(ctx context.Context, info *Info) context.Context {
	return context.WithValue(ctx, infoKey{}, info)
}

// From is the Info of ctx, or nil.
func From(ctx context.Context) *Info {
	info, _ := ctx.Value(infoKey{}).(*Info)
	return info
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

// WithAuditID returns a context that carries the id under which the request
// is logged and audited.
func WithAuditID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, auditIDKey{}, id)
}

// AuditID is the id under which the request is logged, or empty.
func AuditID(ctx context.Context) string {
	id, _ := ctx.Value(auditIDKey{}).(string)
	return id
}

// WithFailure returns a context in which Fail leaves the error a request was
// answered with.
func WithFailure(ctx context.Context) (context.Context, *error) {
	err := new(error)
	return context.WithValue(ctx, failureKey{}, err), err
}

// Fail notes the error a request is answered with, for the log.
func Fail(ctx context.Context, err error) {
	if place, ok := ctx.Value(failureKey{}).(*error); ok {
		*place = err
	}
}

// notes are what is collected while a request is served. They may be written
// by several goroutines.
type notes struct {
	mu       sync.Mutex
	warn     func(text string)
	warnings []string
	audit    map[string]string
}

// WithNotes returns a context that collects warnings and audit annotations;
// warn is called once for each new warning.
func WithNotes(ctx context.Context, warn func(text string)) context.Context {
	return context.WithValue(ctx, notesKey{}, &notes{warn: warn})
}

// Warn adds a text to the Warning headers of the answer, once.
func Warn(ctx context.Context, text string) {
	n, _ := ctx.Value(notesKey{}).(*notes)
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
	n, _ := ctx.Value(notesKey{}).(*notes)
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
	n, _ := ctx.Value(notesKey{}).(*notes)
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.audit)
}
