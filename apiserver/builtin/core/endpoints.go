package core

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func endpoints() *resource.Resource {
	return resource.Define[corev1.EndpointsList](resource.Definition[corev1.Endpoints]{
		Version: "v1", Kind: "Endpoints", Plural: "endpoints", Prefix: "services/endpoints", ShortNames: []string{"ep"},
		Deprecated:     "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
		Default:        defaultEndpoints,
		Validate:       validateEndpoints,
		Warn:           warnEndpoints,
		CreateOnUpdate: true,
		Columns: []resource.Column[*corev1.Endpoints]{
			resource.NameColumn[*corev1.Endpoints](),
			table.Text("Endpoints", table.Doc(corev1.Endpoints{}, "subsets"), endpointsColumn),
			resource.AgeColumn[*corev1.Endpoints](),
		},
	})
}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
		}
	}
}

func validateEndpoints(e, old *corev1.Endpoints) field.ErrorList {
	if old != nil && equality.Semantic.DeepEqual(e.Subsets, old.Subsets) {
		return nil
	}
	var errs field.ErrorList
	for i := range e.Subsets {
		subset, path := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(subset.Addresses)+len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(path, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range subset.Addresses {
			errs = append(errs, validateEndpointAddress(&subset.Addresses[j], path.Child("addresses").Index(j))...)
		}
		for j := range subset.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&subset.NotReadyAddresses[j], path.Child("notReadyAddresses").Index(j))...)
		}
		for j := range subset.Ports {
			errs = append(errs, validateEndpointPort(&subset.Ports[j], len(subset.Ports) > 1, path.Child("ports").Index(j))...)
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, path *field.Path) field.ErrorList {
	ip := path.Child("ip")
	errs := validation.IsValidIPForLegacyField(ip, a.IP, true, nil)
	if netutils.ParseIPSloppy(a.IP) == nil {
		errs = append(errs, field.Invalid(ip, a.IP, "must be a valid IP address"))
	} else {
		errs = append(errs, validateEndpointIP(a.IP, ip)...)
	}
	if a.Hostname != "" {
		errs = append(errs, check.Label(a.Hostname, path.Child("hostname"))...)
	}
	if a.NodeName != nil {
		for _, msg := range validation.IsDNS1123Subdomain(*a.NodeName) {
			errs = append(errs, field.Invalid(path.Child("nodeName"), *a.NodeName, msg))
		}
	}
	return errs
}

// validateEndpointIP refuses addresses that would reach the node itself or its
// neighbours instead of a pod.
func validateEndpointIP(text string, path *field.Path) field.ErrorList {
	ip := netutils.ParseIPSloppy(text)
	var errs field.ErrorList
	refuse := func(when bool, message string) {
		if when {
			errs = append(errs, field.Invalid(path, text, message))
		}
	}
	refuse(ip.IsUnspecified(), fmt.Sprintf("may not be unspecified (%v)", text))
	refuse(ip.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	refuse(ip.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	refuse(ip.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	return errs
}

func validateEndpointPort(p *corev1.EndpointPort, named bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if named && p.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else if p.Name != "" {
		errs = append(errs, check.Label(p.Name, path.Child("name"))...)
	}
	for _, msg := range validation.IsValidPortNum(int(p.Port)) {
		errs = append(errs, field.Invalid(path.Child("port"), p.Port, msg))
	}
	errs = append(errs, validateProtocol(p.Protocol, path.Child("protocol"))...)
	return append(errs, validateAppProtocol(p.AppProtocol, path.Child("appProtocol"))...)
}

func warnEndpoints(e, _ *corev1.Endpoints) []string {
	var warnings []string
	for i, subset := range e.Subsets {
		path := field.NewPath("subsets").Index(i)
		for j, a := range subset.Addresses {
			warnings = append(warnings, validation.GetWarningsForIP(path.Child("addresses").Index(j).Child("ip"), a.IP)...)
		}
		for j, a := range subset.NotReadyAddresses {
			warnings = append(warnings, validation.GetWarningsForIP(path.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
		}
	}
	return warnings
}

func endpointsColumn(e *corev1.Endpoints) string {
	const most = 3
	var list []string
	count := 0
	for _, subset := range e.Subsets {
		if len(subset.Ports) == 0 {
			count += len(subset.Addresses)
			for _, a := range subset.Addresses {
				list = append(list, a.IP)
			}
		}
		for _, p := range subset.Ports {
			count += len(subset.Addresses)
			for _, a := range subset.Addresses {
				list = append(list, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	if count > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:most], ","), count-most)
	}
	return table.OrNone(strings.Join(list, ","))
}
