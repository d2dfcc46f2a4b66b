package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/rest"
)

// admittance finds out who asks, and whether they may.
type admittance struct {
	*Server
	metrics *accessMetrics
}

// authenticate finds out who asks. Requests from within the process carry
// their user in the context, where no network request can put one.
func (s admittance) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if request.User(r.Context()) != nil {
			next.ServeHTTP(w, r)
			return
		}
		began := time.Now()
		answer, ok, err := s.config.Authenticator.AuthenticateRequest(r)
		s.metrics.authenticated(r, began, answer, ok, err)
		if err != nil || !ok {
			s.config.Log.DebugContext(r.Context(), "not authenticated", "path", r.URL.Path, "from", r.RemoteAddr, "error", err)
			endConnection(w, r)
			w, r = s.auditRefusal(w, r)
			rest.WriteError(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		if answer.User.GetName() == user.Anonymous {
			endConnection(w, r)
		}
		r.Header.Del("Authorization") // no later step needs it, and none should pass it on
		next.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), answer.User)))
	})
}

// endConnection makes this the last request of a connection of HTTP/2, whose
// streams are cheap to open and dear to serve: those that nobody vouches for
// get no more than over HTTP/1.1.
func endConnection(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 2 {
		w.Header().Set("Connection", "close")
	}
}

// authorize asks whether the user may do this.
func (s admittance) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := access(r.Context())
		began := time.Now()
		decision, reason, err := s.config.Authorizer.Authorize(r.Context(), a)
		s.metrics.authorized(began, decision, err)
		switch {
		case decision == authorizer.DecisionAllow:
			request.Decided(r.Context(), "allow", reason)
			next.ServeHTTP(w, r)
		case err != nil:
			request.Decided(r.Context(), "", "internal error")
			request.Fail(r.Context(), err)
			http.Error(w, request.Escape(rest.Short(fmt.Sprintf("Internal Server Error: %q: %v", r.URL.RequestURI(), err))), http.StatusInternalServerError)
		default:
			request.Decided(r.Context(), "forbid", reason)
			refuse(w, r, request.Forbidden(a, reason))
		}
	})
}

// attributes are what the request of ctx is about, but for its selectors, which only the authorizer asks for.
func attributes(ctx context.Context) authorizer.AttributesRecord {
	info := request.From(ctx)
	return authorizer.AttributesRecord{
		User: request.User(ctx), Verb: info.Verb, Path: info.Path, ResourceRequest: info.IsResource,
		APIGroup: info.Group, APIVersion: info.Version, Namespace: info.Namespace,
		Resource: info.Resource, Subresource: info.Subresource, Name: info.Name,
	}
}

// access is what the request of ctx asks the authorizer for.
func access(ctx context.Context) authorizer.AttributesRecord {
	info, a := request.From(ctx), attributes(ctx)
	if info.FieldSelector != "" {
		if selector, err := fields.ParseSelector(info.FieldSelector); err != nil {
			a.FieldSelectorParsingErr = err
		} else {
			a.FieldSelectorRequirements = selector.Requirements()
		}
	}
	if info.LabelSelector != "" {
		if selector, err := labels.Parse(info.LabelSelector); err != nil {
			a.LabelSelectorParsingErr = err
		} else {
			a.LabelSelectorRequirements, _ = selector.Requirements()
		}
	}
	return a
}

// refuse answers with an error that has what the client sent in its message.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	rest.WriteError(w, r, err)
}
