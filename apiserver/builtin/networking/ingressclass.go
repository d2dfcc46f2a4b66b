package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func ingressClasses() *resource.Resource {
	type class = networkingv1.IngressClass
	name := resource.NameColumn[*class]()
	name.Value = func(c *class) any {
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			return c.Name + " (default)"
		}
		return c.Name
	}
	return resource.Define[networkingv1.IngressClassList](resource.Definition[class]{
		Group: networkingv1.GroupName, Version: "v1", Kind: "IngressClass", Plural: "ingressclasses",
		ClusterScoped: true,
		Default: func(c *class) {
			if p := c.Spec.Parameters; p != nil && p.Scope == nil {
				p.Scope = ptr.To(networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		},
		Validate:   validateIngressClass,
		Generation: func(c, old *class) bool { return !equality.Semantic.DeepEqual(c.Spec, old.Spec) },
		Columns: []resource.Column[*class]{
			name,
			table.Text("Controller", "Controller that is responsible for handling this class", func(c *class) string { return c.Spec.Controller }),
			table.Text("Parameters", "A reference to a resource with additional parameters", parametersColumn),
			resource.AgeColumn[*class](),
		},
	})
}

func validateIngressClass(c, old *networkingv1.IngressClass) field.ErrorList {
	const longest = 250
	at := field.NewPath("spec", "controller")
	var errs field.ErrorList
	if old != nil {
		errs = append(errs, check.Immutable(c.Spec.Controller, old.Spec.Controller, at)...)
	}
	if len(c.Spec.Controller) > longest {
		errs = append(errs, field.TooLong(at, "", longest))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	if c.Spec.Parameters != nil {
		errs = append(errs, validateParameters(c.Spec.Parameters, field.NewPath("spec", "parameters"))...)
	}
	return errs
}

func validateParameters(p *networkingv1.IngressClassParametersReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.APIGroup != nil {
		errs = append(errs, check.Subdomain(*p.APIGroup, at.Child("apiGroup"))...)
	}
	errs = append(errs, segment(p.Kind, at.Child("kind"))...)
	errs = append(errs, segment(p.Name, at.Child("name"))...)
	if p.Scope == nil {
		return append(errs, field.Required(at.Child("scope"), ""))
	}
	scope, namespace := *p.Scope, at.Child("namespace")
	switch scope {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			return append(errs, field.Required(namespace, "`parameters.scope` is set to 'Namespace'"))
		}
		return append(errs, check.Label(*p.Namespace, namespace)...)
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'"))
		}
		return errs
	}
	return append(errs, field.NotSupported(at.Child("scope"), scope, []string{
		networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace}))
}

func parametersColumn(c *networkingv1.IngressClass) string {
	p := c.Spec.Parameters
	if p == nil {
		return "<none>"
	}
	kind := p.Kind
	if p.APIGroup != nil {
		kind += "." + *p.APIGroup
	}
	return kind + "/" + p.Name
}
