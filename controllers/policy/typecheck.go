package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apply "k8s.io/client-go/applyconfigurations/admissionregistration/v1"

	"github.com/skiff-k8s/skiff/apiserver/expression"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// typeChecking is the name of the controller, which owns what it says.
const typeChecking = "validatingadmissionpolicy-status"

// TypeChecking says in the status of each ValidatingAdmissionPolicy which of its expressions cannot be about the kinds
// that it names, by their schemas. It is woken by a change of what a policy says.
func TypeChecking(d Deps) reconcile.Controller {
	policies := d.Informers.Admissionregistration().V1().ValidatingAdmissionPolicies()
	return reconcile.Controller{
		Name:    typeChecking,
		Workers: d.Workers,
		Watch:   []reconcile.Source{reconcile.Self(policies.Informer())},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			policy, err := policies.Lister().Get(key.Name)
			if apierrors.IsNotFound(err) {
				return 0, nil
			}
			if err != nil || policy.Generation <= policy.Status.ObservedGeneration {
				return 0, err
			}
			warnings, err := check(policy, &schemas{client: d.Client.Discovery()})
			if err != nil {
				return 0, fmt.Errorf("check types of policy %s: %w", key.Name, err)
			}
			status := apply.ValidatingAdmissionPolicyStatus().WithObservedGeneration(policy.Generation).WithTypeChecking(apply.TypeChecking().WithExpressionWarnings(warnings...))
			_, err = d.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().ApplyStatus(ctx,
				apply.ValidatingAdmissionPolicy(policy.Name).WithStatus(status), metav1.ApplyOptions{FieldManager: typeChecking, Force: true})
			return 0, reconcile.IgnoreNotFound(err)
		},
	}
}

// checker checks expressions about one kind.
type checker struct {
	kind schema.GroupVersionKind
	*expression.Checker
}

// check are the warnings about a policy.
func check(policy *admissionregistrationv1.ValidatingAdmissionPolicy, s *schemas) ([]*apply.ExpressionWarningApplyConfiguration, error) {
	checkers, err := newCheckers(policy, s)
	if err != nil {
		return nil, err
	}
	var warnings []*apply.ExpressionWarningApplyConfiguration
	look := func(at *field.Path, text string) {
		var found []string
		for _, c := range checkers {
			if err := c.Check(text); err != nil {
				found = append(found, fmt.Sprintf("%v: %v\n", c.kind, err))
			}
		}
		if len(found) > 0 {
			warnings = append(warnings, apply.ExpressionWarning().WithFieldRef(at.String()).WithWarning(strings.Join(found, "\n")))
		}
	}
	at := field.NewPath("spec", "validations")
	for i, v := range policy.Spec.Validations {
		look(at.Index(i).Child("expression"), v.Expression)
		if v.MessageExpression != "" {
			look(at.Index(i).Child("messageExpression"), v.MessageExpression)
		}
	}
	return warnings, nil
}

func newCheckers(policy *admissionregistrationv1.ValidatingAdmissionPolicy, s *schemas) ([]checker, error) {
	kinds, err := s.kinds(policy.Spec.MatchConstraints)
	if err != nil || len(kinds) == 0 {
		return nil, err
	}
	params, err := paramType(policy.Spec.ParamKind, s)
	if err != nil {
		return nil, err
	}
	var checkers []checker
	for _, kind := range kinds {
		object, err := s.known(kind)
		if err != nil {
			return nil, err
		}
		if object.Schema == nil {
			continue // nothing is known of it
		}
		c, err := expression.NewChecker(object, params)
		if err != nil {
			return nil, err
		}
		for _, v := range policy.Spec.Variables {
			c.Variable(v.Name, v.Expression)
		}
		checkers = append(checkers, checker{kind, c})
	}
	return checkers, nil
}

// paramType is the type of params; nil if there are none.
func paramType(kind *admissionregistrationv1.ParamKind, s *schemas) (*expression.Known, error) {
	if kind == nil {
		return nil, nil
	}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return &expression.Known{}, nil // validation does not let it pass
	}
	known, err := s.known(gv.WithKind(kind.Kind))
	known.Name += "Params" // an object may be of a kind of the same name
	return &known, err
}

// mostKinds is how many kinds a rule is checked for.
const mostKinds = 10

// kinds are those that match constraints name, without wildcards and subresources.
func (s *schemas) kinds(match *admissionregistrationv1.MatchResources) ([]schema.GroupVersionKind, error) {
	if match == nil {
		return nil, nil
	}
	var kinds []schema.GroupVersionKind
	for _, rule := range match.ResourceRules {
		if anyHas(rule.APIGroups, "*") || anyHas(rule.APIVersions, "*") {
			continue
		}
		found, err := s.named(rule.Rule)
		if err != nil {
			return nil, err
		}
		if kinds = append(kinds, found...); len(found) == mostKinds {
			break
		}
	}
	slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Kind, b.Kind))
	})
	return slices.Compact(kinds), nil
}

// named are the first kinds that a rule names.
func (s *schemas) named(rule admissionregistrationv1.Rule) ([]schema.GroupVersionKind, error) {
	var kinds []schema.GroupVersionKind
	for _, group := range slices.Sorted(slices.Values(rule.APIGroups)) {
		for _, version := range slices.Sorted(slices.Values(rule.APIVersions)) {
			for _, name := range slices.Sorted(slices.Values(rule.Resources)) {
				if strings.ContainsAny(name, "*/") {
					continue
				}
				found, err := s.find(schema.GroupVersionResource{Group: group, Version: version, Resource: name})
				if err != nil {
					return nil, err
				}
				if kinds = append(kinds, found...); len(kinds) >= mostKinds {
					return kinds[:mostKinds], nil
				}
			}
		}
	}
	return kinds, nil
}

func anyHas(list []string, char string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, char) })
}
