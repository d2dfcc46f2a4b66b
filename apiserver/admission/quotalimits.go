package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"github.com/skiff-k8s/skiff/quota"
)

// quotaConfiguration is the configuration of ResourceQuota.
type quotaConfiguration struct {
	metav1.TypeMeta
	Limited quotaLimits `json:"limitedResources"`
}

// DeepCopyObject makes it an object that a decoder can make. It is never copied.
func (c *quotaConfiguration) DeepCopyObject() runtime.Object {
	shallow := *c
	return &shallow
}

// quotaLimits say what may only be used in a namespace that has a quota for it.
type quotaLimits []quotaLimit

// quotaLimit is about what objects of a kind use if its name contains one of Contains, and about objects in one of Scopes.
type quotaLimit struct {
	Group    string                                     `json:"apiGroup,omitempty"`
	Resource string                                     `json:"resource"`
	Contains []string                                   `json:"matchContains,omitempty"`
	Scopes   []corev1.ScopedResourceSelectorRequirement `json:"matchScopes,omitempty"`
}

// readQuotaLimits reads the configuration of ResourceQuota, which has had two groups.
func readQuotaLimits(data []byte) (quotaLimits, error) {
	const group, kind = "resourcequota.admission.k8s.io", "Configuration"
	config, err := decodeAs(data, &quotaConfiguration{}, serializer.EnableStrict, apiserverv1.SchemeGroupVersion.WithKind("ResourceQuotaConfiguration"),
		schema.GroupVersionKind{Group: group, Version: "v1beta1", Kind: kind}, schema.GroupVersionKind{Group: group, Version: "v1alpha1", Kind: kind})
	if err != nil {
		return nil, err
	}
	return config.Limited, config.Limited.validate().ToAggregate()
}

func (l quotaLimits) validate() (problems field.ErrorList) {
	for i, limit := range l {
		if limit.Resource == "" {
			problems = append(problems, field.Required(field.NewPath("limitedResources").Index(i).Child("resource"), ""))
		}
	}
	return problems
}

// covered refuses what a uses if it needs a quota that there is not. about are those of quotas that are about a.
func (l quotaLimits) covered(a *Attributes, used corev1.ResourceList, quotas, about []*corev1.ResourceQuota) error {
	if names := l.uncoveredNames(a.Resource.GR(), used, about); len(names) > 0 {
		return a.forbid("insufficient quota to consume: %s", joinNames(names))
	}
	if scopes := l.uncoveredScopes(a.New, quotas); len(scopes) > 0 {
		return plainError(fmt.Errorf("insufficient quota to match these scopes: %v", scopes))
	}
	return nil
}

// uncoveredNames are the names of what is used that needs a quota, and that no quota limits.
func (l quotaLimits) uncoveredNames(kind schema.GroupResource, used corev1.ResourceList, about []*corev1.ResourceQuota) (names []corev1.ResourceName) {
	needs := func(name corev1.ResourceName) bool {
		return slices.ContainsFunc(l, func(limit quotaLimit) bool {
			return limit.Group == kind.Group && limit.Resource == kind.Resource &&
				slices.ContainsFunc(limit.Contains, func(part string) bool { return strings.Contains(string(name), part) })
		})
	}
	has := func(name corev1.ResourceName) bool {
		return slices.ContainsFunc(about, func(q *corev1.ResourceQuota) bool { _, ok := q.Status.Hard[name]; return ok })
	}
	for name, quantity := range used {
		if quantity.Sign() > 0 && needs(name) && !has(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// uncoveredScopes are the scopes that need a quota, in which obj is, and which no quota has that obj is in too. They count for
// all kinds that know them, whatever kind a limit names: kube-apiserver has it so.
func (l quotaLimits) uncoveredScopes(obj runtime.Object, quotas []*corev1.ResourceQuota) (scopes []corev1.ScopedResourceSelectorRequirement) {
	has := func(name corev1.ResourceQuotaScope) bool {
		return slices.ContainsFunc(quotas, func(q *corev1.ResourceQuota) bool {
			return slices.ContainsFunc(quota.Scopes(&q.Spec), func(s corev1.ScopedResourceSelectorRequirement) bool {
				return s.ScopeName == name && quota.InScope(obj, s)
			})
		})
	}
	for _, limit := range l {
		for _, s := range limit.Scopes {
			if quota.InScope(obj, s) && !has(s.ScopeName) {
				scopes = append(scopes, s)
			}
		}
	}
	return scopes
}
