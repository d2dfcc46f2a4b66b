// Package builtin joins the rows of all kinds that are served from the start.
// The rows themselves are in a package per API group, a file per kind.
package builtin

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/skiff-k8s/skiff/apiserver/alloc"
	"github.com/skiff-k8s/skiff/apiserver/builtin/admissionregistration"
	"github.com/skiff-k8s/skiff/apiserver/builtin/apiextensions"
	"github.com/skiff-k8s/skiff/apiserver/builtin/apiregistration"
	"github.com/skiff-k8s/skiff/apiserver/builtin/apps"
	"github.com/skiff-k8s/skiff/apiserver/builtin/authentication"
	"github.com/skiff-k8s/skiff/apiserver/builtin/authorization"
	"github.com/skiff-k8s/skiff/apiserver/builtin/autoscaling"
	"github.com/skiff-k8s/skiff/apiserver/builtin/batch"
	"github.com/skiff-k8s/skiff/apiserver/builtin/certificates"
	"github.com/skiff-k8s/skiff/apiserver/builtin/coordination"
	"github.com/skiff-k8s/skiff/apiserver/builtin/core"
	"github.com/skiff-k8s/skiff/apiserver/builtin/devices"
	"github.com/skiff-k8s/skiff/apiserver/builtin/discovery"
	"github.com/skiff-k8s/skiff/apiserver/builtin/events"
	"github.com/skiff-k8s/skiff/apiserver/builtin/flowcontrol"
	"github.com/skiff-k8s/skiff/apiserver/builtin/metrics"
	"github.com/skiff-k8s/skiff/apiserver/builtin/networking"
	"github.com/skiff-k8s/skiff/apiserver/builtin/node"
	"github.com/skiff-k8s/skiff/apiserver/builtin/policy"
	"github.com/skiff-k8s/skiff/apiserver/builtin/rbac"
	"github.com/skiff-k8s/skiff/apiserver/builtin/scheduling"
	"github.com/skiff-k8s/skiff/apiserver/builtin/storage"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Deps are what rows need from elsewhere. Fields of kinds a server does not
// need may be nil; those kinds are left out then.
type Deps struct {
	// Services gives addresses and node ports. It must be given its cluster
	// (Use) before the first Service is written.
	Services *alloc.Services
	// Tokens checks the tokens of TokenReviews, for Audiences where a review
	// names none.
	Tokens    authenticator.Token
	Audiences []string
	// Issuer signs the tokens of service accounts.
	Issuer authentication.Issuer
	// Authorizer answers SubjectAccessReviews and the like.
	Authorizer authorization.Authorizer
	// Components are the parts of the control plane that ComponentStatuses tell of.
	Components []core.Component
	// Usage says what nodes and pods use.
	Usage metrics.Source
}

// Resources are all rows, groups in the order of discovery.
func Resources(d Deps) []*resource.Resource {
	inCore := core.Resources(core.Config{Services: d.Services, Token: token(d), Components: d.Components})
	all := [][]*resource.Resource{
		inCore,
		apiregistration.Resources(),
		apps.Resources(),
		events.Resources(find(inCore, "events")),
	}
	if d.Tokens != nil {
		all = append(all, authentication.Resources(d.Tokens, d.Audiences))
	}
	if d.Authorizer != nil {
		all = append(all, authorization.Resources(d.Authorizer))
	}
	all = append(all,
		autoscaling.Resources(),
		batch.Resources(),
		certificates.Resources(),
		networking.Resources(),
		policy.Resources(),
		rbac.Resources(),
		storage.Resources(),
		apiextensions.Resources(),
		admissionregistration.Resources(),
		scheduling.Resources(),
		coordination.Resources(),
		node.Resources(),
		discovery.Resources(),
		devices.Resources(d.Authorizer),
		flowcontrol.Resources(),
	)
	if d.Usage != nil {
		all = append(all, metrics.Resources(d.Usage))
	}
	return slices.Concat(all...)
}

func token(d Deps) *resource.Subresource[corev1.ServiceAccount] {
	if d.Issuer == nil {
		return nil
	}
	s := authentication.Token(d.Issuer)
	return &s
}

func find(rows []*resource.Resource, plural string) *resource.Resource {
	return rows[slices.IndexFunc(rows, func(r *resource.Resource) bool { return r.Plural == plural })]
}
