package networking

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// ipAddresses are the claims of package alloc, one object per address in use.
func ipAddresses() *resource.Resource {
	type address = networkingv1.IPAddress
	return resource.Define[networkingv1.IPAddressList](resource.Definition[address]{
		Group: networkingv1.GroupName, Version: "v1", Kind: "IPAddress", Plural: "ipaddresses", Older: []string{"v1beta1"}, ShortNames: []string{"ip"},
		ClusterScoped: true,
		Name:          addressName,
		Validate:      validateAddress,
		Columns: []resource.Column[*address]{
			resource.NameColumn[*address](),
			table.Text("ParentRef", table.Doc(networkingv1.IPAddressSpec{}, "parentRef"), parentColumn),
		},
	})
}

// addressName requires the one canonical form of an IP address.
func addressName(name string, _ bool) []string {
	var messages []string
	for _, err := range validation.IsValidIP(&field.Path{}, name) {
		messages = append(messages, err.Detail)
	}
	return messages
}

func validateAddress(a, old *networkingv1.IPAddress) field.ErrorList {
	at := field.NewPath("spec", "parentRef")
	ref := a.Spec.ParentRef
	var errs field.ErrorList
	if ref == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validateParent(ref, at)...)
	}
	if old != nil {
		errs = append(errs, check.Unchanged(ref, old.Spec.ParentRef, at)...)
	}
	return errs
}

func validateParent(ref *networkingv1.ParentReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ref.Group != "" {
		errs = append(errs, check.Subdomain(ref.Group, at.Child("group"))...)
	}
	for _, part := range []struct {
		name, value string
		required    bool
	}{{"resource", ref.Resource, true}, {"name", ref.Name, true}, {"namespace", ref.Namespace, false}} {
		if part.value == "" && part.required {
			errs = append(errs, field.Required(at.Child(part.name), ""))
			continue
		}
		if part.value != "" {
			errs = append(errs, check.Invalid(at.Child(part.name), part.value, path.IsValidPathSegmentName(part.value))...)
		}
	}
	return errs
}

func parentColumn(a *networkingv1.IPAddress) string {
	ref := a.Spec.ParentRef
	if ref == nil {
		return "<none>"
	}
	kind := strings.ToLower(ref.Resource)
	if ref.Group != "" {
		kind += "." + ref.Group
	}
	if ref.Namespace == "" {
		return kind + "/" + ref.Name
	}
	return kind + "/" + ref.Namespace + "/" + ref.Name
}

func serviceCIDRs() *resource.Resource {
	type cidr = networkingv1.ServiceCIDR
	return resource.Define[networkingv1.ServiceCIDRList](resource.Definition[cidr]{
		Group: networkingv1.GroupName, Version: "v1", Kind: "ServiceCIDR", Plural: "servicecidrs", Older: []string{"v1beta1"},
		ClusterScoped: true,
		Prepare: func(c, old *cidr) {
			c.Status = networkingv1.ServiceCIDRStatus{}
			if old != nil {
				c.Status = *old.Status.DeepCopy()
			}
		},
		Validate: validateServiceCIDR,
		Columns: []resource.Column[*cidr]{
			resource.NameColumn[*cidr](),
			table.Text("CIDRs", table.Doc(networkingv1.ServiceCIDRSpec{}, "cidrs"), func(c *cidr) string { return strings.Join(c.Spec.CIDRs, ",") }),
			resource.AgeColumn[*cidr](),
		},
		Subresources: []resource.Subresource[cidr]{{
			Name: "status", View: true,
			Prepare: func(c, old *cidr) {
				c.Spec = *old.Spec.DeepCopy()
				metav1.ResetObjectMetaForStatus(&c.ObjectMeta, old.ObjectMeta.DeepCopy())
			},
			Reset: []string{"spec", "metadata"},
		}},
	})
}

func validateServiceCIDR(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	at := field.NewPath("spec", "cidrs")
	if old == nil {
		return validateCIDRs(c.Spec.CIDRs, at)
	}
	was, is := old.Spec.CIDRs, c.Spec.CIDRs
	grows := len(was) == 1 && len(is) == 2
	if len(was) != len(is) && !grows {
		return field.ErrorList{field.Invalid(at, is, "field is immutable")}
	}
	var errs field.ErrorList
	for i := range was {
		errs = append(errs, check.Immutable(is[i], was[i], at.Index(i))...)
	}
	if grows {
		errs = append(errs, validateCIDRs(is, at)...)
	}
	return errs
}

func validateCIDRs(cidrs []string, at *field.Path) field.ErrorList {
	if len(cidrs) == 0 {
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	}
	if len(cidrs) > 2 {
		return field.ErrorList{field.Invalid(at, podspec.Untagged(networkingv1.ServiceCIDRSpec{CIDRs: cidrs}), "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, c := range cidrs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), c)...)
	}
	if len(cidrs) == 2 {
		first, second := netutils.IPFamilyOfCIDRString(cidrs[0]), netutils.IPFamilyOfCIDRString(cidrs[1])
		if first == second && first != netutils.IPFamilyUnknown {
			errs = append(errs, field.Invalid(at, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	return errs
}
