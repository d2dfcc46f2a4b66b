package policy

import (
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/authz"
)

// mayRefer refuses policies about params, and bindings to params, that their maker may not read: a policy tells what is
// in them.
func (p *Policies) mayRefer(ctx context.Context, a *admission.Attributes) error {
	if a.New == nil || a.Subresource != "" || a.User == nil || authz.IsMaster(a.User) {
		return nil
	}
	at, problem := "", error(nil)
	switch kind, policy, ref := referring(a.New); {
	case kind != nil && !sameKind(a, kind):
		at, problem = "paramKind", p.mayReadKind(ctx, a.User, kind)
	case ref != nil: // also if it was the same before, as kube-apiserver has it
		at, problem = "paramRef", p.mayReadParams(ctx, a, policy, ref)
	}
	if problem == nil {
		return nil
	}
	return apierrors.NewInvalid(a.Resource.GVK().GroupKind(), a.Object().GetName(),
		field.ErrorList{field.Forbidden(field.NewPath("spec", at), problem.Error())})
}

// referring is the kind of params of a policy, or what a binding names.
func referring(obj any) (kind *admissionregistrationv1.ParamKind, policy string, ref *admissionregistrationv1.ParamRef) {
	switch o := obj.(type) {
	case *admissionregistrationv1.ValidatingAdmissionPolicy:
		return o.Spec.ParamKind, "", nil
	case *admissionregistrationv1.MutatingAdmissionPolicy:
		return o.Spec.ParamKind, "", nil
	case *admissionregistrationv1.ValidatingAdmissionPolicyBinding:
		return nil, o.Spec.PolicyName, o.Spec.ParamRef
	case *admissionregistrationv1.MutatingAdmissionPolicyBinding:
		return nil, o.Spec.PolicyName, o.Spec.ParamRef
	}
	return nil, "", nil
}

func sameKind(a *admission.Attributes, kind *admissionregistrationv1.ParamKind) bool {
	old, _, _ := referring(a.Old)
	return old != nil && *old == *kind
}

// target is what has to be readable: all there is, as far as the kind does not say.
type target struct {
	group, version, resource string
	problem                  error
}

func (p *Policies) target(kind *admissionregistrationv1.ParamKind) target {
	t := target{group: "*", version: "*", resource: "*"}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		t.problem = fmt.Errorf("unable to parse paramKind &{%s %s}", kind.APIVersion, kind.Kind)
		return t
	}
	t.group, t.version = gv.Group, gv.Version
	if row := p.config.Kind(gv.WithKind(kind.Kind)); row != nil {
		t.resource = row.Plural
	} else {
		t.problem = fmt.Errorf("unable to resolve paramKind &{%s %s}", kind.APIVersion, kind.Kind)
	}
	return t
}

func (p *Policies) may(ctx context.Context, u user.Info, verb string, t target, namespace, name string) (bool, error) {
	decision, _, err := p.config.Authorizer.Authorize(ctx, authorizer.AttributesRecord{User: u, Verb: verb, ResourceRequest: true,
		APIGroup: t.group, APIVersion: t.version, Resource: t.resource, Namespace: namespace, Name: name})
	return decision == authorizer.DecisionAllow, err
}

func (p *Policies) mayReadKind(ctx context.Context, u user.Info, kind *admissionregistrationv1.ParamKind) error {
	ok, err := p.may(ctx, u, "get", p.target(kind), "*", "*")
	if err != nil || ok {
		return err
	}
	return fmt.Errorf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`, u, kind.Kind, kind.APIVersion)
}

func (p *Policies) mayReadParams(ctx context.Context, a *admission.Attributes, policy string, ref *admissionregistrationv1.ParamRef) error {
	t, verb := p.targetOf(ctx, a, policy), "get"
	if ref.Name == "" {
		verb = "list"
	}
	ok, err := p.may(ctx, a.User, verb, t, ref.Namespace, ref.Name)
	switch {
	case err != nil:
		return fmt.Errorf("failed to authorize request: %w", err)
	case ok:
		return nil
	case t.problem != nil:
		return fmt.Errorf(`%w to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, t.problem, a.User, verb)
	}
	return fmt.Errorf(`user %v does not have "%v" permission on the object referenced by paramRef`, a.User, verb)
}

// targetOf is what the params of a policy are, as far as it can be told.
func (p *Policies) targetOf(ctx context.Context, a *admission.Attributes, policy string) target {
	all := target{group: "*", version: "*", resource: "*"}
	plural := p.validating.policies
	if a.Resource.Plural == p.mutating.bindings {
		plural = p.mutating.policies
	}
	obj, err := a.Cluster.Get(ctx, a.Cluster.Resource(admissionregistrationv1.GroupName, plural), "", policy)
	if err != nil {
		all.problem = fmt.Errorf("unable to get policy %s", policy)
		return all
	}
	if kind, _, _ := referring(obj); kind != nil {
		return p.target(kind)
	}
	return all
}
