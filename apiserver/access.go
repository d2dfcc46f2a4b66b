package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/rest"
)

// authenticate finds out who asks. Requests from within the process carry
// their user in the context, where no network request can put one.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if request.User(r.Context()) != nil {
			next.ServeHTTP(w, r)
			return
		}
		answer, ok, err := s.config.Authenticator.AuthenticateRequest(r)
		if err != nil || !ok {
			s.config.Log.DebugContext(r.Context(), "not authenticated", "path", r.URL.Path, "from", r.RemoteAddr, "err", err)
			rest.WriteError(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		r.Header.Del("Authorization") // no later step needs it, and none should pass it on
		next.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), answer.User)))
	})
}

// authorize asks whether the user may do this.
func (s *Server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := request.From(r.Context())
		a := authorizer.AttributesRecord{
			User: request.User(r.Context()), Verb: info.Verb, Path: info.Path, ResourceRequest: info.IsResource,
			APIGroup: info.Group, APIVersion: info.Version, Namespace: info.Namespace,
			Resource: info.Resource, Subresource: info.Subresource, Name: info.Name,
		}
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
		decision, reason, err := s.config.Authorizer.Authorize(r.Context(), a)
		switch {
		case decision == authorizer.DecisionAllow:
			next.ServeHTTP(w, r)
		case err != nil:
			rest.WriteError(w, r, apierrors.NewInternalError(err))
		default:
			forbid(w, r, a, reason)
		}
	})
}

// escaper keeps messages from being read as HTML.
var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func forbid(w http.ResponseWriter, r *http.Request, a authorizer.AttributesRecord, reason string) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	message := escaper.Replace(refusal(a))
	if reason != "" {
		message += ": " + reason
	}
	rest.WriteError(w, r, apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errors.New(message)))
}

// refusal says what the user may not do.
func refusal(a authorizer.AttributesRecord) string {
	name := ""
	if a.User != nil {
		name = a.User.GetName()
	}
	if !a.ResourceRequest {
		return fmt.Sprintf("User %q cannot %s path %q", name, a.Verb, a.Path)
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	where := "at the cluster scope"
	if a.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", a.Namespace)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", name, a.Verb, resource, a.APIGroup, where)
}

// Headers by which a user asks to act as another one.
const (
	impersonateUser  = "Impersonate-User"
	impersonateGroup = "Impersonate-Group"
	impersonateUID   = "Impersonate-Uid"
	impersonateExtra = "Impersonate-Extra-"
)

// impersonate lets a user who may act as another one do so.
func (s *Server) impersonate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wanted := wantedUser(r.Header)
		if wanted == nil {
			next.ServeHTTP(w, r)
			return
		}
		if wanted.Name == "" {
			w.Header().Set("X-Content-Type-Options", "nosniff")
			rest.WriteError(w, r, apierrors.NewBadRequest(fmt.Sprintf("requested %#v without impersonating a user name", wanted)))
			return
		}
		for _, a := range impersonations(wanted) {
			a.User = request.User(r.Context())
			decision, reason, err := s.config.Authorizer.Authorize(r.Context(), a)
			if err != nil || decision != authorizer.DecisionAllow {
				forbid(w, r, a, reason)
				return
			}
		}
		addGroups(wanted, len(r.Header[impersonateGroup]) > 0)
		for name := range r.Header {
			if strings.HasPrefix(name, "Impersonate-") {
				r.Header.Del(name)
			}
		}
		next.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), wanted)))
	})
}

// wantedUser is who the headers ask to act as, nil if nobody.
func wantedUser(h http.Header) *user.DefaultInfo {
	u := &user.DefaultInfo{Name: h.Get(impersonateUser), UID: h.Get(impersonateUID), Groups: slices.Clone(h[impersonateGroup])}
	for name, values := range h {
		key, ok := strings.CutPrefix(name, impersonateExtra)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		if u.Extra == nil {
			u.Extra = make(map[string][]string)
		}
		u.Extra[key] = append(u.Extra[key], values...)
	}
	if u.Name == "" && u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0 {
		return nil
	}
	return u
}

// impersonations are the rights needed to act as u, one for each thing.
func impersonations(u *user.DefaultInfo) []authorizer.AttributesRecord {
	var all []authorizer.AttributesRecord
	need := func(a authorizer.AttributesRecord) {
		a.Verb, a.ResourceRequest = "impersonate", true
		all = append(all, a)
	}
	if namespace, name, err := serviceaccount.SplitUsername(u.Name); err == nil {
		need(authorizer.AttributesRecord{Resource: "serviceaccounts", Namespace: namespace, Name: name})
	} else {
		need(authorizer.AttributesRecord{Resource: "users", Name: u.Name})
	}
	for _, group := range u.Groups {
		need(authorizer.AttributesRecord{Resource: "groups", Name: group})
	}
	const group, version = "authentication.k8s.io", "v1"
	for key, values := range u.Extra {
		for _, value := range values {
			need(authorizer.AttributesRecord{APIGroup: group, APIVersion: version, Resource: "userextras", Subresource: key, Name: value})
		}
	}
	if u.UID != "" {
		need(authorizer.AttributesRecord{APIGroup: group, APIVersion: version, Resource: "uids", Name: u.UID})
	}
	return all
}

// addGroups gives u the groups that follow from who it is.
func addGroups(u *user.DefaultInfo, named bool) {
	if namespace, _, err := serviceaccount.SplitUsername(u.Name); err == nil && !named {
		u.Groups = serviceaccount.MakeGroupNames(namespace)
	}
	switch {
	case u.Name == user.Anonymous && !slices.Contains(u.Groups, user.AllUnauthenticated):
		u.Groups = append(u.Groups, user.AllUnauthenticated)
	case u.Name != user.Anonymous && !slices.Contains(u.Groups, user.AllAuthenticated) && !slices.Contains(u.Groups, user.AllUnauthenticated):
		u.Groups = append(u.Groups, user.AllAuthenticated)
	}
}
