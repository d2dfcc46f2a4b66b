package policy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// source are the policies of one kind, with their bindings.
type source struct {
	policies, bindings string // the resources
	now                atomic.Pointer[bound]
	mu                 sync.Mutex // held by who makes the next
}

// bound is what was made of one state of the store. It does not change.
type bound struct {
	policies, bindings []resource.Object
	list               []*definition
	made               map[types.UID]*definition // also those without bindings
}

// definition is a policy, ready to be asked. It does not change.
type definition struct {
	name, revision string
	bindings       []*binding
	params         *admissionregistrationv1.ParamKind
	ignores        bool // failures
	match          *matching.Criteria
	matchErr       error

	validating *admissionregistrationv1.ValidatingAdmissionPolicySpec // or
	mutating   *admissionregistrationv1.MutatingAdmissionPolicySpec
	compiled   func() *program
}

// binding puts a policy to use. It does not change.
type binding struct {
	name     string
	params   *admissionregistrationv1.ParamRef
	match    *matching.Criteria // nil: all that the policy matches
	matchErr error
	actions  []admissionregistrationv1.ValidationAction
}

// load are the policies that have bindings, in the order of their names, and each with its bindings in that of theirs.
func (s *source) load(ctx context.Context, c resource.Cluster) ([]*definition, error) {
	policies, err := list(ctx, c, s.policies)
	if err != nil || len(policies) == 0 {
		return nil, err
	}
	bindings, err := list(ctx, c, s.bindings)
	if err != nil || len(bindings) == 0 {
		return nil, err
	}
	// Objects of the store are the same as long as they do not change.
	if now := s.now.Load(); now != nil && slices.Equal(now.policies, policies) && slices.Equal(now.bindings, bindings) {
		return now.list, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := bind(s.now.Load(), policies, bindings)
	s.now.Store(next)
	return next.list, nil
}

func list(ctx context.Context, c resource.Cluster, plural string) ([]resource.Object, error) {
	row := c.Resource(admissionregistrationv1.GroupName, plural)
	if row == nil {
		return nil, nil
	}
	objects, err := c.List(ctx, row, "")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", plural, err)
	}
	return objects, nil
}

// bind makes definitions, of those that are as they were what was made before.
func bind(before *bound, policies, bindings []resource.Object) *bound {
	next := &bound{policies: policies, bindings: bindings, made: make(map[types.UID]*definition, len(policies))}
	byPolicy := make(map[string][]*binding)
	for _, obj := range bindings {
		name, b := readBinding(obj)
		byPolicy[name] = append(byPolicy[name], b)
	}
	for _, obj := range policies {
		bound := byPolicy[obj.GetName()]
		if len(bound) == 0 {
			continue
		}
		var d definition
		if before != nil && before.made[obj.GetUID()] != nil && before.made[obj.GetUID()].revision == obj.GetResourceVersion() {
			d = *before.made[obj.GetUID()]
		} else {
			d = readPolicy(obj)
		}
		d.bindings = bound
		next.made[obj.GetUID()] = &d
		next.list = append(next.list, &d)
	}
	return next
}

func readBinding(obj resource.Object) (policy string, b *binding) {
	b = &binding{name: obj.GetName()}
	var match *admissionregistrationv1.MatchResources
	switch o := obj.(type) {
	case *admissionregistrationv1.ValidatingAdmissionPolicyBinding:
		policy, b.params, b.actions, match = o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.ValidationActions, o.Spec.MatchResources
	case *admissionregistrationv1.MutatingAdmissionPolicyBinding:
		policy, b.params, match = o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.MatchResources
	}
	if match != nil {
		b.match, b.matchErr = matching.Parse(match)
	}
	return policy, b
}

func readPolicy(obj resource.Object) definition {
	d := definition{name: obj.GetName(), revision: obj.GetResourceVersion()}
	var failure *admissionregistrationv1.FailurePolicyType
	var match *admissionregistrationv1.MatchResources
	switch o := obj.(type) {
	case *admissionregistrationv1.ValidatingAdmissionPolicy:
		d.validating, d.params, failure, match = &o.Spec, o.Spec.ParamKind, o.Spec.FailurePolicy, o.Spec.MatchConstraints
		d.compiled = sync.OnceValue(func() *program { return compileValidating(&o.Spec) })
	case *admissionregistrationv1.MutatingAdmissionPolicy:
		d.mutating, d.params, failure, match = &o.Spec, o.Spec.ParamKind, o.Spec.FailurePolicy, o.Spec.MatchConstraints
		d.compiled = sync.OnceValue(func() *program { return compileMutating(&o.Spec) })
	}
	d.ignores = ptr.Deref(failure, admissionregistrationv1.Fail) == admissionregistrationv1.Ignore
	d.match, d.matchErr = matching.Parse(match)
	return d
}
