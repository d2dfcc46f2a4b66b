package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/alloc"
	"github.com/skiff-k8s/skiff/family"
)

// fillFamilies says which IP families a Service has, of those the cluster has:
// configured, the primary one first. Headless Services without selector may have
// others too, because their endpoints are somebody else's.
func fillFamilies(s, old *corev1.Service, configured []corev1.IPFamily) error {
	if !hasClusterIP(s) || keepsPreferred(s, old) {
		return nil
	}
	headlessForeign := s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0
	if s.Spec.IPFamilyPolicy == nil {
		s.Spec.IPFamilyPolicy = defaultFamilyPolicy(old, headlessForeign)
	}
	if errs := validateClusterIPs(s, old); len(errs) > 0 {
		return invalidService(s, errs)
	}
	spec := field.NewPath("spec")
	single := *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	var errs field.ErrorList
	if old != nil {
		errs = narrowFamilies(s, old, single)
	}
	if single && len(s.Spec.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
	}
	if single && len(s.Spec.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	errs = append(errs, inferFamilies(s, configured)...)
	if len(errs) > 0 {
		return invalidService(s, errs)
	}
	if !headlessForeign {
		errs = validateConfigured(s, configured)
	}
	if len(errs) > 0 {
		return invalidService(s, errs)
	}
	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = configured[:1:1]
	}
	if !single && len(s.Spec.IPFamilies) == 1 && (headlessForeign || len(configured) == 2) {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, family.Other(s.Spec.IPFamilies[0]))
	}
	return nil
}

// inferFamilies says of which families the addresses are that are asked for.
func inferFamilies(s *corev1.Service, configured []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range s.Spec.ClusterIPs {
		f, ok := family.OfText(ip)
		if !ok || i < len(s.Spec.IPFamilies) {
			continue
		}
		if !slices.Contains(configured, f) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs").Index(i), s.Spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", f)))
			continue
		}
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, f)
	}
	return errs
}

// validateConfigured finds what the cluster does not have.
func validateConfigured(s *corev1.Service, configured []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(configured) < 2 {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.Spec.IPFamilies {
		if !slices.Contains(configured, f) {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return errs
}

// keepsPreferred reports whether s is written as it was, a Service that prefers
// two families. It then keeps the number it has: what it was given does not
// change by itself when the cluster gets or loses a family.
func keepsPreferred(s, old *corev1.Service) bool {
	const preferred = corev1.IPFamilyPolicyPreferDualStack
	return old != nil && hasClusterIP(s) && s.Spec.Type == old.Spec.Type &&
		ptr.Deref(s.Spec.IPFamilyPolicy, "") == preferred && ptr.Deref(old.Spec.IPFamilyPolicy, preferred) == preferred &&
		equalLists(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && equalLists(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

func defaultFamilyPolicy(old *corev1.Service, headlessForeign bool) *corev1.IPFamilyPolicy {
	switch {
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		return ptr.To(*old.Spec.IPFamilyPolicy)
	case headlessForeign:
		return ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	default:
		return ptr.To(corev1.IPFamilyPolicySingleStack)
	}
}

// narrowFamilies drops the second family when the policy says so, and refuses
// to drop it when it does not.
func narrowFamilies(s, old *corev1.Service, single bool) field.ErrorList {
	if single {
		if equalLists(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && len(s.Spec.ClusterIPs) > 1 {
			s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1]
		}
		if equalLists(s.Spec.IPFamilies, old.Spec.IPFamilies) && len(s.Spec.IPFamilies) > 1 {
			s.Spec.IPFamilies = s.Spec.IPFamilies[:1]
		}
		return nil
	}
	var errs field.ErrorList
	policy := field.NewPath("spec", "ipFamilyPolicy")
	if n := len(s.Spec.ClusterIPs); n > 0 && n < len(old.Spec.ClusterIPs) {
		errs = append(errs, field.Invalid(policy, s.Spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if n := len(s.Spec.IPFamilies); n > 0 && n < len(old.Spec.IPFamilies) {
		errs = append(errs, field.Invalid(policy, s.Spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

// readService gives a Service that was stored before there were families, or
// several addresses, those that it has had since. Whoever has endpoints for a
// headless Service without selector may have them in both families.
func readService(s *corev1.Service, a *alloc.Services) {
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
	if !hasClusterIP(s) {
		s.Spec.InternalTrafficPolicy = nil
		return
	}
	if len(s.Spec.IPFamilies) > 0 {
		return
	}
	policy := corev1.IPFamilyPolicySingleStack
	switch {
	case s.Spec.ClusterIP != corev1.ClusterIPNone:
		for _, ip := range s.Spec.ClusterIPs {
			if f, ok := family.OfText(ip); ok {
				s.Spec.IPFamilies = append(s.Spec.IPFamilies, f)
			}
		}
	default:
		s.Spec.IPFamilies = a.CIDRs().Families()[:1]
		if len(s.Spec.Selector) == 0 {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies[:1:1], family.Other(s.Spec.IPFamilies[0]))
		}
	}
	if len(s.Spec.IPFamilies) == 2 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	s.Spec.IPFamilyPolicy = &policy
}
