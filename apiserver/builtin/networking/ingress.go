package networking

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// classAnnotation named the class before spec.ingressClassName did.
const classAnnotation = "kubernetes.io/ingress.class"

func ingresses() *resource.Resource {
	type ingress = networkingv1.Ingress
	return resource.Define[networkingv1.IngressList](resource.Definition[ingress]{
		Group: networkingv1.GroupName, Version: "v1", Kind: "Ingress", Plural: "ingresses", Prefix: "ingress", ShortNames: []string{"ing"},
		Prepare: func(i, old *ingress) {
			i.Status = networkingv1.IngressStatus{}
			if old != nil {
				i.Status = *old.Status.DeepCopy()
			}
		},
		Validate:   validateIngress,
		Warn:       warnIngress,
		Generation: func(i, old *ingress) bool { return !equality.Semantic.DeepEqual(i.Spec, old.Spec) },
		Columns: []resource.Column[*ingress]{
			resource.NameColumn[*ingress](),
			table.Text("Class", "The name of the IngressClass resource that should be used for additional configuration", func(i *ingress) string {
				if i.Spec.IngressClassName == nil {
					return "<none>"
				}
				return *i.Spec.IngressClassName
			}),
			table.Text("Hosts", "Hosts that incoming requests are matched against before the ingress rule", hostsColumn),
			table.Text("Address", "Address is a list containing ingress points for the load-balancer", addressColumn),
			table.Text("Ports", "Ports of TLS configurations that open", func(i *ingress) string {
				if len(i.Spec.TLS) > 0 {
					return "80, 443"
				}
				return "80"
			}),
			resource.AgeColumn[*ingress](),
		},
		Subresources: []resource.Subresource[ingress]{{
			Name: "status", View: true,
			Prepare:  func(i, old *ingress) { i.Spec = *old.Spec.DeepCopy() },
			Validate: validateIngressStatus,
		}},
	})
}

func warnIngress(i, old *networkingv1.Ingress) []string {
	_, annotated := i.Annotations[classAnnotation]
	if old == nil && annotated && i.Spec.IngressClassName == nil {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
	}
	return nil
}

func validateIngress(i, old *networkingv1.Ingress) field.ErrorList {
	at := field.NewPath("spec")
	var errs field.ErrorList
	if len(i.Spec.Rules) == 0 && i.Spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(at, i.Spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if i.Spec.DefaultBackend != nil {
		errs = append(errs, validateBackend(i.Spec.DefaultBackend, at.Child("defaultBackend"))...)
	}
	for n := range i.Spec.Rules {
		errs = append(errs, validateRule(&i.Spec.Rules[n], at.Child("rules").Index(n))...)
	}
	for n, tls := range i.Spec.TLS {
		for m, host := range tls.Hosts {
			errs = append(errs, validateHost(host, at.Child("tls").Index(n).Child("hosts").Index(m))...)
		}
		if tls.SecretName != "" {
			errs = append(errs, check.Subdomain(tls.SecretName, at.Child("tls").Index(n).Child("secretName"))...)
		}
	}
	class := i.Spec.IngressClassName
	if class != nil {
		errs = append(errs, check.Subdomain(*class, at.Child("ingressClassName"))...)
	}
	if value, ok := i.Annotations[classAnnotation]; old == nil && ok && class != nil && value != *class {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), value, "must match `ingressClassName` when both are specified"))
	}
	return errs
}

// validateHost allows *.domain.
func validateHost(host string, at *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return check.Invalid(at, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return check.Subdomain(host, at)
}

func validateRule(r *networkingv1.IngressRule, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if netutils.ParseIPSloppy(r.Host) != nil {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, validateHost(r.Host, at.Child("host"))...)
	}
	if r.HTTP == nil {
		return errs
	}
	paths := at.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, validatePath(&r.HTTP.Paths[i], paths.Index(i))...)
	}
	return errs
}

// What paths that are compared must not contain, because clients and proxies
// make something else of it.
var (
	pathParts    = []string{"//", "/./", "/../", "%2f", "%2F"}
	pathSuffixes = []string{"/..", "/."}
)

func validatePath(p *networkingv1.HTTPIngressPath, at *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	errs := check.Supported(*p.PathType, at.Child("pathType"), networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)
	compared := *p.PathType == networkingv1.PathTypeExact || *p.PathType == networkingv1.PathTypePrefix
	optional := *p.PathType == networkingv1.PathTypeImplementationSpecific && p.Path == ""
	if len(errs) == 0 && !optional && !strings.HasPrefix(p.Path, "/") {
		errs = append(errs, field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
	}
	if compared {
		for _, part := range pathParts {
			if strings.Contains(p.Path, part) {
				errs = append(errs, field.Invalid(at.Child("path"), p.Path, fmt.Sprintf("must not contain '%s'", part)))
			}
		}
		for _, suffix := range pathSuffixes {
			if strings.HasSuffix(p.Path, suffix) {
				errs = append(errs, field.Invalid(at.Child("path"), p.Path, fmt.Sprintf("cannot end with '%s'", suffix)))
			}
		}
	}
	return append(errs, validateBackend(&p.Backend, at.Child("backend"))...)
}

func validateBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(b.Resource, at.Child("resource"))
	case b.Service != nil:
		return validateServiceBackend(b.Service, at)
	}
	return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
}

func validateServiceBackend(s *networkingv1.IngressServiceBackend, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("service", "name"), ""))
	} else {
		errs = append(errs, check.Label(s.Name, at.Child("service", "name"))...)
	}
	port := at.Child("service", "port")
	switch {
	case s.Port.Name != "" && s.Port.Number != 0:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case s.Port.Name != "":
		errs = append(errs, check.Invalid(port.Child("name"), s.Port.Name, validation.IsValidPortName(s.Port.Name))...)
	case s.Port.Number != 0:
		errs = append(errs, check.Port(s.Port.Number, port.Child("number"))...)
	default:
		errs = append(errs, field.Required(at, "port name or number is required"))
	}
	return errs
}

func validateReference(r *corev1.TypedLocalObjectReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = append(errs, check.Subdomain(*r.APIGroup, at.Child("apiGroup"))...)
	}
	errs = append(errs, segment(r.Kind, at.Child("kind"))...)
	return append(errs, segment(r.Name, at.Child("name"))...)
}

// segment requires something that can stand between two slashes of a path.
func segment(s string, at *field.Path) field.ErrorList {
	if s == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return check.Invalid(at, s, path.IsValidPathSegmentName(s))
}

func validateIngressStatus(i, old *networkingv1.Ingress) field.ErrorList {
	var errs field.ErrorList
	var before []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		before = append(before, in.IP)
	}
	for n, in := range i.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, before)...)
		}
		if in.Hostname == "" {
			continue
		}
		errs = append(errs, check.Subdomain(in.Hostname, at.Child("hostname"))...)
		if netutils.ParseIPSloppy(in.Hostname) != nil {
			errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}

func hostsColumn(i *networkingv1.Ingress) string {
	const most = 3
	var hosts []string
	more := false
	for _, r := range i.Spec.Rules {
		if len(hosts) == most {
			more = true
			break
		}
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	text := strings.Join(hosts, ",")
	if more {
		return fmt.Sprintf("%s + %d more...", text, len(i.Spec.Rules)-most)
	}
	return table.Or(text, "*")
}

func addressColumn(i *networkingv1.Ingress) string {
	var points []string
	for _, in := range i.Status.LoadBalancer.Ingress {
		if point := table.Or(in.IP, in.Hostname); point != "" {
			points = append(points, point)
		}
	}
	slices.Sort(points)
	return strings.Join(slices.Compact(points), ",")
}
