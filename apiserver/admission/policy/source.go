package policy

import (
	"context"
	"fmt"
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
	changed            func(ctx context.Context, r *resource.Resource) (int64, error)
	now                atomic.Pointer[bound]
	mu                 sync.Mutex // held by who makes the next
}

// bound is what was made of one state of the store. It does not change.
type bound struct {
	state
	list []*definition
	made map[types.UID]*definition
}

// state are the newest changes of policies and of bindings.
type state struct{ policies, bindings int64 }

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
	policies, bindings := c.Resource(admissionregistrationv1.GroupName, s.policies), c.Resource(admissionregistrationv1.GroupName, s.bindings)
	if policies == nil || bindings == nil {
		return nil, nil
	}
	newest, err := s.state(ctx, policies, bindings)
	if err != nil {
		return nil, err
	}
	if now := s.now.Load(); now != nil && now.state == newest {
		return now.list, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now.Load(); now != nil && now.state == newest {
		return now.list, nil // made while this waited
	}
	// Read after the state: what is newer than that is read again.
	all, err := c.List(ctx, policies, "")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.policies, err)
	}
	used, err := c.List(ctx, bindings, "")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.bindings, err)
	}
	next := bind(s.now.Load(), all, used)
	next.state = newest
	s.now.Store(next)
	return next.list, nil
}

func (s *source) state(ctx context.Context, policies, bindings *resource.Resource) (newest state, err error) {
	if newest.policies, err = s.changed(ctx, policies); err != nil {
		return newest, fmt.Errorf("changes of %s: %w", s.policies, err)
	}
	if newest.bindings, err = s.changed(ctx, bindings); err != nil {
		return newest, fmt.Errorf("changes of %s: %w", s.bindings, err)
	}
	return newest, nil
}

// bind makes definitions, of those that are as they were what was made before.
func bind(before *bound, policies, bindings []resource.Object) *bound {
	next := &bound{made: make(map[types.UID]*definition, len(policies))}
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
