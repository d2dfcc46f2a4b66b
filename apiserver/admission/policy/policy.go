// Package policy judges and changes writes as ValidatingAdmissionPolicies and MutatingAdmissionPolicies say.
//
// The store is asked for changes of policies and bindings, and for params, at every write, so that each takes effect as
// soon as its own write is answered. What is made of a policy is kept until it changes; its expressions are compiled when
// the first write matches it.
package policy

import (
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Config of New.
type Config struct {
	// Served are the rows that are served now, by which objects are converted to the version a policy asks for.
	Served func() []*resource.Resource
	// Kind finds the row of a kind that is served now, as params are named; nil: there is none.
	Kind func(schema.GroupVersionKind) *resource.Resource
	// Changed is the revision of the newest change of any object of a kind.
	Changed func(ctx context.Context, r *resource.Resource) (int64, error)
	// Authorizer answers expressions, and says who may make policies about which params.
	Authorizer authorizer.Authorizer
	// Metrics counts; nil: nobody does.
	Metrics prometheus.Registerer
}

// Policies judges and changes writes. It is used by many goroutines at once.
type Policies struct {
	config               Config
	metrics              *metrics
	mutating, validating *source
}

// New returns Policies that know of no policy yet.
func New(c Config) *Policies {
	return &Policies{
		config: c, metrics: newMetrics(c.Metrics),
		mutating:   &source{changed: c.Changed, policies: "mutatingadmissionpolicies", bindings: "mutatingadmissionpolicybindings"},
		validating: &source{changed: c.Changed, policies: "validatingadmissionpolicies", bindings: "validatingadmissionpolicybindings"},
	}
}

const mutatingName = "MutatingAdmissionPolicy"

// Mutating is the step of admission in which policies change objects.
func (p *Policies) Mutating() admission.Plugin {
	return admission.Plugin{Name: mutatingName, Mutate: p.mutate}
}

// Validating is the step of admission in which policies judge objects.
func (p *Policies) Validating() admission.Plugin {
	return admission.Plugin{Name: "ValidatingAdmissionPolicy", Validate: p.validate}
}

// own are the kinds that say what policies do. No policy may lock itself in.
var own = []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"}

// exempt reports whether no policy is asked about a: it is about policies, or a question by which the cluster lives.
func exempt(a *admission.Attributes) bool {
	return a.Resource.Review != nil || a.Resource.Group == admissionregistrationv1.GroupName && slices.Contains(own, a.Resource.Plural)
}
