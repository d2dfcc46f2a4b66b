package apiserver

import (
	"net/http"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// trace makes spans of requests. Without a Tracer it is not there at all.
func (s *Server) trace(next http.Handler) http.Handler {
	if s.config.Tracing == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, end := s.config.Tracing.Begin(r, tracing.Request{
			Name: spanName(r.Method, request.From(r.Context())), Target: r.URL.RequestURI(), AuditID: request.AuditID(r.Context()),
			Trusted: mayTrace(request.User(r.Context())),
		})
		out := &response{ResponseWriter: w}
		defer func() { end(out.code) }()
		next.ServeHTTP(out, r.WithContext(ctx))
	})
}

// mayTrace reports whether a user says to which trace requests belong, and so has them sampled: those who may do everything, and those
// who watch over the cluster.
func mayTrace(u user.Info) bool {
	return u != nil && slices.ContainsFunc(u.GetGroups(), func(group string) bool {
		return group == user.SystemPrivilegedGroup || group == user.MonitoringGroup
	})
}

// spanName is the path of a request about a resource, without names.
func spanName(method string, info *request.Info) string {
	if !info.IsResource {
		return method
	}
	path := "/api"
	if info.Group != "" {
		path = "/apis/" + info.Group
	}
	path += "/" + info.Version
	if info.Namespace != "" {
		path += "/namespaces/{:namespace}"
	}
	path += "/" + info.Resource
	if info.Name != "" {
		path += "/{:name}"
	}
	if info.Subresource != "" {
		path += "/" + info.Subresource
	}
	return method + " " + path
}
