package authz

import (
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	authorizationv1beta1 "k8s.io/api/authorization/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// question is what an authorizer is asked as a SubjectAccessReview says it.
func question(a authorizer.Attributes) authorizationv1.SubjectAccessReviewSpec {
	spec := subject(a.GetUser())
	if !a.IsResourceRequest() {
		spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: a.GetPath(), Verb: a.GetVerb()}
		return spec
	}
	spec.ResourceAttributes = &authorizationv1.ResourceAttributes{
		Namespace: a.GetNamespace(), Verb: a.GetVerb(), Group: a.GetAPIGroup(), Version: a.GetAPIVersion(),
		Resource: a.GetResource(), Subresource: a.GetSubresource(), Name: a.GetName(),
	}
	if fields := fieldRequirements(a); len(fields) > 0 {
		spec.ResourceAttributes.FieldSelector = &authorizationv1.FieldSelectorAttributes{Requirements: fields}
	}
	if labels := labelRequirements(a); len(labels) > 0 {
		spec.ResourceAttributes.LabelSelector = &authorizationv1.LabelSelectorAttributes{Requirements: labels}
	}
	return spec
}

func subject(u user.Info) (spec authorizationv1.SubjectAccessReviewSpec) {
	if u == nil {
		return spec
	}
	spec.User, spec.UID, spec.Groups = u.GetName(), u.GetUID(), u.GetGroups()
	if extra := u.GetExtra(); extra != nil {
		spec.Extra = make(map[string]authorizationv1.ExtraValue, len(extra))
		for key, values := range extra {
			spec.Extra[key] = values
		}
	}
	return spec
}

// Requirements narrow what is asked for. One that a review cannot express is left out: the question is then a broader one,
// and who may do more may do less. So are those of a selector that could not be parsed.

func fieldRequirements(a authorizer.Attributes) (list []metav1.FieldSelectorRequirement) {
	all, _ := a.GetFieldSelector()
	for _, r := range all {
		operator, ok := map[selection.Operator]metav1.FieldSelectorOperator{
			selection.Equals: metav1.FieldSelectorOpIn, selection.DoubleEquals: metav1.FieldSelectorOpIn, selection.In: metav1.FieldSelectorOpIn,
			selection.NotEquals: metav1.FieldSelectorOpNotIn, selection.NotIn: metav1.FieldSelectorOpNotIn,
		}[r.Operator]
		if ok {
			list = append(list, metav1.FieldSelectorRequirement{Key: r.Field, Operator: operator, Values: []string{r.Value}})
		}
	}
	return list
}

func labelRequirements(a authorizer.Attributes) (list []metav1.LabelSelectorRequirement) {
	all, _ := a.GetLabelSelector()
	for _, r := range all {
		operator, ok := map[selection.Operator]metav1.LabelSelectorOperator{
			selection.Equals: metav1.LabelSelectorOpIn, selection.DoubleEquals: metav1.LabelSelectorOpIn, selection.In: metav1.LabelSelectorOpIn,
			selection.NotEquals: metav1.LabelSelectorOpNotIn, selection.NotIn: metav1.LabelSelectorOpNotIn,
			selection.Exists: metav1.LabelSelectorOpExists, selection.DoesNotExist: metav1.LabelSelectorOpDoesNotExist,
		}[r.Operator()]
		if ok {
			list = append(list, metav1.LabelSelectorRequirement{Key: r.Key(), Operator: operator, Values: slices.Clone(r.ValuesUnsorted())})
		}
	}
	return list
}

// older is the spec in version v1beta1.
func older(s authorizationv1.SubjectAccessReviewSpec) authorizationv1beta1.SubjectAccessReviewSpec {
	spec := authorizationv1beta1.SubjectAccessReviewSpec{User: s.User, Groups: s.Groups, UID: s.UID}
	if r := s.ResourceAttributes; r != nil {
		spec.ResourceAttributes = &authorizationv1beta1.ResourceAttributes{
			Namespace: r.Namespace, Verb: r.Verb, Group: r.Group, Version: r.Version, Resource: r.Resource, Subresource: r.Subresource, Name: r.Name,
			FieldSelector: r.FieldSelector, LabelSelector: r.LabelSelector,
		}
	}
	if p := s.NonResourceAttributes; p != nil {
		spec.NonResourceAttributes = &authorizationv1beta1.NonResourceAttributes{Path: p.Path, Verb: p.Verb}
	}
	if s.Extra != nil {
		spec.Extra = make(map[string]authorizationv1beta1.ExtraValue, len(s.Extra))
		for key, values := range s.Extra {
			spec.Extra[key] = authorizationv1beta1.ExtraValue(values)
		}
	}
	return spec
}

// seen is the spec as match conditions see it: all fields are there, but for those that could be there and are not asked for.
func seen(s authorizationv1.SubjectAccessReviewSpec) map[string]any {
	extra := make(map[string][]string, len(s.Extra))
	for key, values := range s.Extra {
		extra[key] = values
	}
	spec := map[string]any{"user": s.User, "groups": s.Groups, "uid": s.UID, "extra": extra}
	if p := s.NonResourceAttributes; p != nil {
		spec["nonResourceAttributes"] = map[string]any{"path": p.Path, "verb": p.Verb}
	}
	if r := s.ResourceAttributes; r != nil {
		attributes := map[string]any{
			"namespace": r.Namespace, "verb": r.Verb, "group": r.Group, "version": r.Version,
			"resource": r.Resource, "subresource": r.Subresource, "name": r.Name,
		}
		if f := r.FieldSelector; f != nil {
			var list []map[string]any
			for _, q := range f.Requirements {
				list = append(list, requirement(q.Key, string(q.Operator), q.Values))
			}
			attributes["fieldSelector"] = map[string]any{"requirements": list}
		}
		if l := r.LabelSelector; l != nil {
			var list []map[string]any
			for _, q := range l.Requirements {
				list = append(list, requirement(q.Key, string(q.Operator), q.Values))
			}
			attributes["labelSelector"] = map[string]any{"requirements": list}
		}
		spec["resourceAttributes"] = attributes
	}
	return spec
}

func requirement(key, operator string, values []string) map[string]any {
	return map[string]any{"key": key, "operator": operator, "values": values}
}
