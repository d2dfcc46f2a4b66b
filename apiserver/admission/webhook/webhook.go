// Package webhook asks webhooks about writes, as MutatingWebhookConfigurations and ValidatingWebhookConfigurations say.
//
// For every write the store is asked whether configurations have changed, so that one takes effect as soon as its own
// write is answered. What is made of one (selectors, compiled conditions, clients) is kept until it changes.
package webhook

import (
	"context"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Config of New.
type Config struct {
	// Dial reaches the endpoints of Services; nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Served are the rows that are served now, by which objects are converted to the version a webhook asks for.
	Served func() []*resource.Resource
	// Changed is the revision of the newest change of any object of a row, of all writes that have been answered.
	Changed func(ctx context.Context, r *resource.Resource) (revision int64, err error)
	// Authorizer answers match conditions.
	Authorizer authorizer.Authorizer
	// Metrics counts calls; nil: nobody does.
	Metrics prometheus.Registerer
	// Log gets calls that failed and were let pass; nil: slog.Default.
	Log *slog.Logger
}

// Webhooks asks webhooks. It is used by many goroutines at once.
type Webhooks struct {
	config               Config
	cluster              resource.Cluster
	metrics              *metrics
	mutating, validating *configurations
}

// New returns Webhooks that know of no configuration yet. They must be given their cluster by Use.
func New(c Config) *Webhooks {
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Webhooks{
		config: c, metrics: newMetrics(c.Metrics),
		mutating: &configurations{plural: "mutatingwebhookconfigurations"}, validating: &configurations{plural: "validatingwebhookconfigurations"},
	}
}

// Use gives w the cluster whose configurations and Services count.
func (w *Webhooks) Use(cluster resource.Cluster) { w.cluster = cluster }

const mutatingName = "MutatingAdmissionWebhook"

// Mutating is the step of admission in which webhooks change objects, one after the other.
func (w *Webhooks) Mutating() admission.Plugin {
	return admission.Plugin{Name: mutatingName, Mutate: w.mutate}
}

// Validating is the step of admission in which webhooks judge objects, all at once.
func (w *Webhooks) Validating() admission.Plugin {
	return admission.Plugin{Name: "ValidatingAdmissionWebhook", Validate: w.validate}
}

// exempt reports whether a is about what says which webhooks are asked. No webhook may lock itself in.
func exempt(a *admission.Attributes) bool {
	return a.Resource.Group == admissionregistrationv1.GroupName
}
