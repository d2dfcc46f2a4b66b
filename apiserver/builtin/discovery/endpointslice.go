// Package discovery holds the kinds of discovery.k8s.io.
package discovery

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource { return []*resource.Resource{endpointSlices()} }

func endpointSlices() *resource.Resource {
	type slice = discoveryv1.EndpointSlice
	return resource.Define[discoveryv1.EndpointSliceList](resource.Definition[slice]{
		Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice", Plural: "endpointslices",
		Default:  defaultEndpointSlice,
		Prepare:  prepareEndpointSlice,
		Validate: validateEndpointSlice,
		Warn:     warnEndpointSlice,
		Generation: func(s, old *slice) bool {
			return !equality.Semantic.DeepEqual(s.Labels, old.Labels) || s.AddressType != old.AddressType ||
				!equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) || !equality.Semantic.DeepEqual(s.Ports, old.Ports)
		},
		Columns: []resource.Column[*slice]{
			resource.NameColumn[*slice](),
			table.Text("AddressType", table.Doc(slice{}, "addressType"), func(s *slice) string { return string(s.AddressType) }),
			table.Text("Ports", table.Doc(slice{}, "ports"), portsColumn),
			table.Text("Endpoints", table.Doc(slice{}, "endpoints"), endpointsColumn),
			resource.AgeColumn[*slice](),
		},
	})
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = ptr.To("")
		}
		if p.Protocol == nil {
			p.Protocol = ptr.To(corev1.ProtocolTCP)
		}
	}
}

// prepareEndpointSlice drops the topology of the beta API, which v1 only reads,
// where endpoints are new.
func prepareEndpointSlice(s, old *discoveryv1.EndpointSlice) {
	if old != nil && equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		return
	}
	for i := range s.Endpoints {
		s.Endpoints[i].DeprecatedTopology = nil
	}
}

const (
	maxEndpoints = 1000
	maxPorts     = 20000
	maxAddresses = 100
	maxHints     = 8
	maxTopology  = 16
)

func validateEndpointSlice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := check.OneOf(s.AddressType, field.NewPath("addressType"), discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	errs = append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
	if old != nil {
		errs = append(errs, check.Immutable(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
		if equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
			return errs // they were good enough once
		}
	}
	path := field.NewPath("endpoints")
	if len(s.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(path, len(s.Endpoints), maxEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, validateEndpoint(&s.Endpoints[i], s.AddressType, path.Index(i))...)
	}
	return errs
}

func validateEndpoint(e *discoveryv1.Endpoint, addressType discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := path.Child("addresses")
	if len(e.Addresses) == 0 {
		errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
	} else if len(e.Addresses) > maxAddresses {
		errs = append(errs, field.TooMany(addresses, len(e.Addresses), maxAddresses))
	}
	for i, a := range e.Addresses {
		errs = append(errs, validateAddress(a, addressType, addresses, i)...)
	}
	if e.NodeName != nil {
		errs = append(errs, check.Subdomain(*e.NodeName, path.Child("nodeName"))...)
	}
	errs = append(errs, validateTopology(e.DeprecatedTopology, path.Child("deprecatedTopology"))...)
	if e.Hostname != nil {
		errs = append(errs, check.Label(*e.Hostname, path.Child("hostname"))...)
	}
	return append(errs, validateHints(e.Hints, path.Child("hints"))...)
}

// validateAddress checks address a, which is number i of the list at path.
func validateAddress(a string, addressType discoveryv1.AddressType, list *field.Path, i int) field.ErrorList {
	path := list.Index(i)
	var errs field.ErrorList
	switch addressType {
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(path, a)
	case discoveryv1.AddressTypeIPv4: // whose leading zeros were allowed once
		errs = validation.IsValidIPForLegacyField(path, a, true, nil)
	case discoveryv1.AddressTypeIPv6:
		errs = validation.IsValidIP(path, a)
	default:
		return nil
	}
	ip, err := netip.ParseAddr(a)
	if err != nil {
		return errs
	}
	switch {
	case addressType == discoveryv1.AddressTypeIPv4 && !ip.Is4():
		errs = append(errs, field.Invalid(list, a, "must be an IPv4 address"))
	case addressType == discoveryv1.AddressTypeIPv6 && ip.Is4():
		errs = append(errs, field.Invalid(list, a, "must be an IPv6 address"))
	}
	refuse := func(when bool, message string) {
		if when {
			errs = append(errs, field.Invalid(path, a, message))
		}
	}
	refuse(ip.IsUnspecified(), fmt.Sprintf("may not be unspecified (%s)", a))
	refuse(ip.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	refuse(ip.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	refuse(ip.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	return errs
}

func validateTopology(topology map[string]string, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabels(topology, path)
	if len(topology) > maxTopology {
		errs = append(errs, field.TooMany(path, len(topology), maxTopology))
	}
	if _, ok := topology[corev1.LabelTopologyZone]; ok {
		errs = append(errs, field.Forbidden(path.Key(corev1.LabelTopologyZone), "use zone instead"))
	}
	return errs
}

func validateHints(h *discoveryv1.EndpointHints, path *field.Path) field.ErrorList {
	if h == nil {
		return nil
	}
	var errs field.ErrorList
	zones, seen := path.Child("forZones"), make(map[string]bool)
	if len(h.ForZones) > maxHints {
		return field.ErrorList{field.TooMany(zones, len(h.ForZones), maxHints)}
	}
	for i, z := range h.ForZones {
		if seen[z.Name] {
			errs = append(errs, field.Duplicate(zones.Index(i).Child("name"), z.Name))
		}
		seen[z.Name] = true
		errs = append(errs, check.Invalid(zones.Index(i).Child("name"), z.Name, validation.IsValidLabelValue(z.Name))...)
	}
	nodes := path.Child("forNodes")
	if len(h.ForNodes) > maxHints {
		return append(errs, field.TooMany(nodes, len(h.ForNodes), maxHints))
	}
	clear(seen)
	for i, n := range h.ForNodes {
		if seen[n.Name] {
			errs = append(errs, field.Duplicate(nodes.Index(i).Child("name"), n.Name))
		}
		seen[n.Name] = true
		errs = append(errs, check.Subdomain(n.Name, nodes.Index(i).Child("name"))...)
	}
	return errs
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(ports) > maxPorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxPorts)}
	}
	seen := make(map[string]bool)
	for i, p := range ports {
		path, name := path.Index(i), ptr.Deref(p.Name, "")
		if name != "" {
			errs = append(errs, check.Label(name, path.Child("name"))...)
		}
		if seen[name] {
			errs = append(errs, field.Duplicate(path.Child("name"), name))
		}
		seen[name] = true
		errs = append(errs, check.Supported(ptr.Deref(p.Protocol, ""), path.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		if p.AppProtocol != nil {
			errs = append(errs, check.Qualified(*p.AppProtocol, path.Child("appProtocol"))...)
		}
	}
	return errs
}

func warnEndpointSlice(s, old *discoveryv1.EndpointSlice) []string {
	if s.AddressType == discoveryv1.AddressTypeFQDN {
		if old != nil {
			return nil
		}
		return []string{"spec.addressType: FQDN endpoints are deprecated"}
	}
	var warnings []string
	for i, e := range s.Endpoints {
		for j, a := range e.Addresses {
			warnings = append(warnings, validation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return warnings
}

const shown = 3 // entries of a list in a column

func portsColumn(s *discoveryv1.EndpointSlice) string {
	if len(s.Ports) == 0 {
		return "<unset>"
	}
	var ports []string
	for _, p := range s.Ports {
		switch {
		case p.Port != nil:
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		case ptr.Deref(p.Name, "") != "":
			ports = append(ports, *p.Name)
		default:
			ports = append(ports, "*")
		}
	}
	return list(ports, len(ports))
}

func endpointsColumn(s *discoveryv1.EndpointSlice) string {
	if len(s.Endpoints) == 0 {
		return "<unset>"
	}
	var addresses []string
	for _, e := range s.Endpoints {
		addresses = append(addresses, e.Addresses...)
	}
	return list(addresses, len(addresses))
}

func list(entries []string, n int) string {
	if n > shown {
		return fmt.Sprintf("%s + %d more...", strings.Join(entries[:shown], ","), n-shown)
	}
	return strings.Join(entries, ",")
}
