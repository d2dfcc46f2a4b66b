package authorization

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func ask(ctx context.Context, z authorizer.Authorizer, spec authorizationv1.SubjectAccessReviewSpec) authorizationv1.SubjectAccessReviewStatus {
	subject := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups}
	if spec.Extra != nil {
		subject.Extra = make(map[string][]string, len(spec.Extra))
		for key, values := range spec.Extra {
			subject.Extra[key] = values
		}
	}
	return decide(ctx, z, attributes(subject, spec.ResourceAttributes, spec.NonResourceAttributes))
}

func decide(ctx context.Context, z authorizer.Authorizer, a authorizer.AttributesRecord) authorizationv1.SubjectAccessReviewStatus {
	decision, reason, err := z.Authorize(ctx, a)
	return authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny,
		Reason: reason, EvaluationError: problems(err, a),
	}
}

// problems tells of what could not be evaluated. Selectors that cannot be
// parsed are dropped, which makes the question a broader one.
func problems(err error, a authorizer.AttributesRecord) string {
	var list []string
	if err != nil {
		list = append(list, err.Error())
	}
	ignored := func(field string, err error, some bool) {
		switch {
		case err != nil && some:
			list = append(list, "spec.resourceAttributes."+field+" partially ignored due to parse error")
		case err != nil:
			list = append(list, "spec.resourceAttributes."+field+" ignored due to parse error")
		}
	}
	ignored("fieldSelector", a.FieldSelectorParsingErr, len(a.FieldSelectorRequirements) > 0)
	ignored("labelSelector", a.LabelSelectorParsingErr, len(a.LabelSelectorRequirements) > 0)
	return strings.Join(list, "; ")
}

// attributes turns a question into what the authorizer is asked. One of
// resource and path is set.
func attributes(u user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizer.AttributesRecord {
	if resource == nil {
		return authorizer.AttributesRecord{User: u, Verb: path.Verb, Path: path.Path}
	}
	a := authorizer.AttributesRecord{
		User: u, Verb: resource.Verb, Namespace: resource.Namespace,
		APIGroup: resource.Group, APIVersion: cmp.Or(resource.Version, "*"),
		Resource: resource.Resource, Subresource: resource.Subresource, Name: resource.Name, ResourceRequest: true,
	}
	if s := resource.LabelSelector; s != nil {
		a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(s)
	}
	if s := resource.FieldSelector; s != nil {
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(s)
	}
	return a
}

var labelOperators = map[metav1.LabelSelectorOperator]selection.Operator{
	metav1.LabelSelectorOpIn:           selection.In,
	metav1.LabelSelectorOpNotIn:        selection.NotIn,
	metav1.LabelSelectorOpExists:       selection.Exists,
	metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
}

func labelRequirements(s *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if s.RawSelector != "" {
		selector, err := labels.Parse(s.RawSelector)
		if err != nil {
			return nil, err
		}
		requirements, _ := selector.Requirements()
		return requirements, nil
	}
	var list labels.Requirements
	var errs []error
	for _, r := range s.Requirements {
		operator, ok := labelOperators[r.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		requirement, err := labels.NewRequirement(r.Key, operator, r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, *requirement)
	}
	return list, errors.Join(errs...)
}

// fieldOperators are the two that field selectors know; they take one value.
var fieldOperators = map[metav1.FieldSelectorOperator]selection.Operator{
	metav1.FieldSelectorOpIn:    selection.Equals,
	metav1.FieldSelectorOpNotIn: selection.NotEquals,
}

func fieldRequirements(s *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if s.RawSelector != "" {
		selector, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil, err
		}
		return selector.Requirements(), nil
	}
	var list fields.Requirements
	var errs []error
	for _, r := range s.Requirements {
		operator, ok := fieldOperators[r.Operator]
		if !ok || len(r.Values) != 1 {
			errs = append(errs, fmt.Errorf("field selector %q %s with %d values is not supported", r.Key, r.Operator, len(r.Values)))
			continue
		}
		list = append(list, fields.Requirement{Field: r.Key, Operator: operator, Value: r.Values[0]})
	}
	return list, errors.Join(errs...)
}
