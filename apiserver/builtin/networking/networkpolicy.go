package networking

import (
	"net/netip"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func networkPolicies() *resource.Resource {
	type policy = networkingv1.NetworkPolicy
	return resource.Define[networkingv1.NetworkPolicyList](resource.Definition[policy]{
		Group: networkingv1.GroupName, Version: "v1", Kind: "NetworkPolicy", Plural: "networkpolicies", ShortNames: []string{"netpol"},
		Default:  defaultNetworkPolicy,
		Validate: validateNetworkPolicy,
		Warn:     warnNetworkPolicy,
		// An empty list is not the same as none here.
		Generation: func(p, old *policy) bool { return !reflect.DeepEqual(p.Spec, old.Spec) },
		Columns: []resource.Column[*policy]{
			resource.NameColumn[*policy](),
			table.Text("Pod-Selector", table.Doc(networkingv1.NetworkPolicySpec{}, "podSelector"), func(p *policy) string {
				return table.Selector(&p.Spec.PodSelector)
			}),
			resource.AgeColumn[*policy](),
		},
	})
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	for _, r := range rules(p) {
		for i := range r.ports {
			if r.ports[i].Protocol == nil {
				r.ports[i].Protocol = ptr.To(corev1.ProtocolTCP)
			}
		}
	}
	if len(p.Spec.PolicyTypes) > 0 {
		return
	}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(p.Spec.Egress) > 0 {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

// rule is an ingress or egress rule, with where it stands.
type rule struct {
	at      *field.Path
	peersAt *field.Path
	ports   []networkingv1.NetworkPolicyPort
	peers   []networkingv1.NetworkPolicyPeer
}

func rules(p *networkingv1.NetworkPolicy) []rule {
	spec := field.NewPath("spec")
	var all []rule
	for i, r := range p.Spec.Ingress {
		at := spec.Child("ingress").Index(i)
		all = append(all, rule{at, at.Child("from"), r.Ports, r.From})
	}
	for i, r := range p.Spec.Egress {
		at := spec.Child("egress").Index(i)
		all = append(all, rule{at, at.Child("to"), r.Ports, r.To})
	}
	return all
}

func validateNetworkPolicy(p, old *networkingv1.NetworkPolicy) field.ErrorList {
	spec := field.NewPath("spec")
	options := metav1validation.LabelSelectorValidationOptions{}
	var known []string
	if old != nil {
		options.AllowInvalidLabelValueInSelector = len(metav1validation.ValidateLabelSelector(&old.Spec.PodSelector, options, nil)) > 0
		known = cidrs(old)
	}
	errs := metav1validation.ValidateLabelSelector(&p.Spec.PodSelector, options, spec.Child("podSelector"))
	for _, r := range rules(p) {
		for i := range r.ports {
			errs = append(errs, validatePolicyPort(&r.ports[i], r.at.Child("ports").Index(i))...)
		}
		for i := range r.peers {
			errs = append(errs, validatePeer(&r.peers[i], options, known, r.peersAt.Index(i))...)
		}
	}
	if len(p.Spec.PolicyTypes) > 2 {
		return append(errs, field.Invalid(spec.Child("policyTypes"), &p.Spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range p.Spec.PolicyTypes {
		errs = append(errs, check.Supported(t, spec.Child("policyTypes").Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func validatePolicyPort(p *networkingv1.NetworkPolicyPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Protocol != nil {
		errs = append(errs, check.Supported(*p.Protocol, at.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	end := at.Child("endPort")
	switch {
	case p.Port == nil && p.EndPort != nil:
		return append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
	case p.Port == nil:
		return errs
	case p.Port.Type == intstr.String && p.EndPort != nil:
		errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
	}
	errs = append(errs, check.PortOrName(*p.Port, at.Child("port"))...)
	if p.Port.Type == intstr.Int && p.EndPort != nil {
		if *p.EndPort < p.Port.IntVal {
			errs = append(errs, field.Invalid(end, p.Port.IntVal, "must be greater than or equal to `port`"))
		}
		errs = append(errs, check.Port(*p.EndPort, end)...)
	}
	return errs
}

func validatePeer(p *networkingv1.NetworkPolicyPeer, options metav1validation.LabelSelectorValidationOptions, known []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.PodSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(p.PodSelector, options, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(p.NamespaceSelector, options, at.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		errs = append(errs, validateBlock(p.IPBlock, known, at.Child("ipBlock"))...)
	}
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case !selects && p.IPBlock == nil:
		errs = append(errs, field.Required(at, "must specify a peer"))
	case selects && p.IPBlock != nil:
		errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	}
	return errs
}

func validateBlock(b *networkingv1.IPBlock, known []string, at *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs := validation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, known)
	whole, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return errs
	}
	for i, text := range b.Except {
		except := at.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(except, text, true, known)...)
		part, err := netip.ParsePrefix(text)
		if err == nil && (!whole.Contains(part.Addr()) || whole.Bits() >= part.Bits()) {
			errs = append(errs, field.Invalid(except, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

// cidrs are the ranges a policy names; an update may keep them whatever they
// look like.
func cidrs(p *networkingv1.NetworkPolicy) []string {
	var all []string
	for _, r := range rules(p) {
		for _, peer := range r.peers {
			if peer.IPBlock != nil {
				all = append(append(all, peer.IPBlock.CIDR), peer.IPBlock.Except...)
			}
		}
	}
	return all
}

func warnNetworkPolicy(p, _ *networkingv1.NetworkPolicy) []string {
	var warnings []string
	for _, r := range rules(p) {
		for i, peer := range r.peers {
			if peer.IPBlock == nil {
				continue
			}
			block := r.peersAt.Index(i).Child("ipBlock")
			warnings = append(warnings, validation.GetWarningsForCIDR(block.Child("cidr"), peer.IPBlock.CIDR)...)
			for j, except := range peer.IPBlock.Except {
				warnings = append(warnings, validation.GetWarningsForCIDR(block.Child("except").Index(j), except)...)
			}
		}
	}
	return warnings
}
