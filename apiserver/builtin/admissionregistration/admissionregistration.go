// Package admissionregistration has the rows of group admissionregistration.k8s.io: which webhooks and policies are asked
// about writes. Packages admission/webhook and admission/policy ask them.
package admissionregistration

import (
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type (
	mutating   = admissionregistrationv1.MutatingWebhookConfiguration
	validating = admissionregistrationv1.ValidatingWebhookConfiguration
)

const (
	group        = admissionregistrationv1.GroupName
	countColumn  = "Webhooks"
	countExplain = "Webhooks indicates the number of webhooks registered in this configuration"
)

// Resources are the rows of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{
		mutatingPolicies(), mutatingBindings(), mutatingWebhooks(),
		validatingPolicies(), validatingBindings(), validatingWebhooks(),
	}
}

func mutatingWebhooks() *resource.Resource {
	return resource.Define[admissionregistrationv1.MutatingWebhookConfigurationList](resource.Definition[mutating]{
		Group: group, Version: "v1", Kind: "MutatingWebhookConfiguration", Plural: "mutatingwebhookconfigurations",
		Categories: []string{"api-extensions"}, ClusterScoped: true, NeedsVersion: true, Meta: resource.MetaAnyFinalizer,
		Default: func(c *mutating) {
			for i := range c.Webhooks {
				w := &c.Webhooks[i]
				setDefault(&w.ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
				defaults(&w.FailurePolicy, &w.MatchPolicy, &w.TimeoutSeconds)
				defaultSelectors(&w.NamespaceSelector, &w.ObjectSelector)
				defaultRules(w.Rules, w.ClientConfig.Service)
			}
		},
		Validate: func(c, old *mutating) field.ErrorList {
			if old == nil {
				return validate(c.Webhooks, nil)
			}
			return validate(c.Webhooks, &old.Webhooks)
		},
		Generation: func(c, old *mutating) bool { return !equality.Semantic.DeepEqual(c.Webhooks, old.Webhooks) },
		Columns: []resource.Column[*mutating]{
			resource.NameColumn[*mutating](),
			table.Number(countColumn, countExplain, func(c *mutating) int64 { return int64(len(c.Webhooks)) }),
			resource.AgeColumn[*mutating](),
		},
	})
}

func validatingWebhooks() *resource.Resource {
	return resource.Define[admissionregistrationv1.ValidatingWebhookConfigurationList](resource.Definition[validating]{
		Group: group, Version: "v1", Kind: "ValidatingWebhookConfiguration", Plural: "validatingwebhookconfigurations",
		Categories: []string{"api-extensions"}, ClusterScoped: true, NeedsVersion: true, Meta: resource.MetaAnyFinalizer,
		Default: func(c *validating) {
			for i := range c.Webhooks {
				w := &c.Webhooks[i]
				defaults(&w.FailurePolicy, &w.MatchPolicy, &w.TimeoutSeconds)
				defaultSelectors(&w.NamespaceSelector, &w.ObjectSelector)
				defaultRules(w.Rules, w.ClientConfig.Service)
			}
		},
		Validate: func(c, old *validating) field.ErrorList {
			if old == nil {
				return validate(common(c.Webhooks), nil)
			}
			had := common(old.Webhooks)
			return validate(common(c.Webhooks), &had)
		},
		Generation: func(c, old *validating) bool { return !equality.Semantic.DeepEqual(c.Webhooks, old.Webhooks) },
		Columns: []resource.Column[*validating]{
			resource.NameColumn[*validating](),
			table.Number(countColumn, countExplain, func(c *validating) int64 { return int64(len(c.Webhooks)) }),
			resource.AgeColumn[*validating](),
		},
	})
}

// common are validating webhooks as mutating ones, which have all their fields and one more.
func common(webhooks []admissionregistrationv1.ValidatingWebhook) []webhook {
	list := make([]webhook, len(webhooks))
	for i, w := range webhooks {
		list[i] = webhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		}
	}
	return slices.Clip(list)
}
