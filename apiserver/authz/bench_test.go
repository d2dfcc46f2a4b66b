package authz_test

import (
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/authz"
	"github.com/skiff-k8s/skiff/apiserver/bootstrap"
)

// BenchmarkAuthorize asks for users with few and with many bindings.
func BenchmarkAuthorize(b *testing.B) {
	s := apiservertest.Start(b, nil)
	z, err := authz.Open(authz.Config{NodeRules: bootstrap.NodeRules()})
	if err != nil {
		b.Fatal(err)
	}
	if err := z.Load(b.Context(), s.Store(), s.Cluster().Resource); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, user, group, resource string }{
		{"scheduler", user.KubeScheduler, "", "bindings"},
		{"controllers", user.KubeControllerManager, "", "pods"},
		{"refused", user.KubeControllerManager, "example.com", "things"},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := authorizer.AttributesRecord{
				User: &user.DefaultInfo{Name: c.user, Groups: []string{user.AllAuthenticated}},
				Verb: "create", APIGroup: c.group, Resource: c.resource, Namespace: "default", ResourceRequest: true,
			}
			b.ReportAllocs()
			for b.Loop() {
				z.Authorize(b.Context(), a)
			}
		})
	}
}
