package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

var specPath = field.NewPath("spec")

func validateService(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if old != nil {
		errs = validateServiceUpdate(s, old)
	}
	errs = append(errs, validateTopologyAnnotations(s)...)
	errs = append(errs, validateServiceType(s)...)
	for i := range s.Spec.Ports {
		errs = append(errs, validateServicePort(s.Spec.Ports, i)...)
	}
	errs = append(errs, metav1validation.ValidateLabels(s.Spec.Selector, specPath.Child("selector"))...)
	errs = append(errs, validateAffinity(&s.Spec)...)
	errs = append(errs, validateClusterIPs(s, old)...)
	errs = append(errs, validateExternalIPs(s, old)...)
	errs = append(errs, check.OneOf(s.Spec.Type, specPath.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = append(errs, validatePortNumbers(s)...)
	errs = append(errs, validateSourceRanges(s, old)...)
	errs = append(errs, validateLoadBalancer(s)...)
	return append(errs, validateTrafficPolicies(s)...)
}

func validateTopologyAnnotations(s *corev1.Service) field.ErrorList {
	hints, hasHints := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, hasMode := s.Annotations[corev1.AnnotationTopologyMode]
	if hasHints && hasMode && hints != mode {
		return field.ErrorList{field.Invalid(field.NewPath("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))}
	}
	return nil
}

func validateServiceType(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if len(s.Spec.Ports) == 0 && !isHeadless(s) && hasClusterIP(s) {
		errs = append(errs, field.Required(specPath.Child("ports"), ""))
	}
	if hasNodePorts(s) && isHeadless(s) {
		errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(0), s.Spec.ClusterIPs[0], fmt.Sprintf("may not be set to 'None' for %s services", s.Spec.Type)))
	}
	if hasClusterIP(s) {
		return errs
	}
	const refused = "may not be set for ExternalName services"
	if len(s.Spec.ClusterIPs) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("clusterIPs"), refused))
	}
	if len(s.Spec.IPFamilies) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("ipFamilies"), refused))
	}
	if s.Spec.IPFamilyPolicy != nil {
		errs = append(errs, field.Forbidden(specPath.Child("ipFamilyPolicy"), refused))
	}
	name, path := strings.TrimSuffix(s.Spec.ExternalName, "."), specPath.Child("externalName")
	if name == "" {
		return append(errs, field.Required(path, ""))
	}
	for _, msg := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	return errs
}

// validateServicePort checks ports[i] by itself and its name against those
// before it.
func validateServicePort(ports []corev1.ServicePort, i int) field.ErrorList {
	var errs field.ErrorList
	p, path := &ports[i], specPath.Child("ports").Index(i)
	switch {
	case p.Name == "" && len(ports) > 1:
		errs = append(errs, field.Required(path.Child("name"), ""))
	case p.Name != "":
		errs = append(errs, check.Label(p.Name, path.Child("name"))...)
	}
	for _, before := range ports[:i] {
		if p.Name != "" && before.Name == p.Name {
			errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
			break
		}
	}
	for _, msg := range validation.IsValidPortNum(int(p.Port)) {
		errs = append(errs, field.Invalid(path.Child("port"), p.Port, msg))
	}
	errs = append(errs, validateProtocol(p.Protocol, path.Child("protocol"))...)
	errs = append(errs, check.PortOrName(p.TargetPort, path.Child("targetPort"))...)
	return append(errs, validateAppProtocol(p.AppProtocol, path.Child("appProtocol"))...)
}

func validateAppProtocol(name *string, path *field.Path) field.ErrorList {
	if name == nil {
		return nil
	}
	return check.Qualified(*name, path)
}

func validateProtocol(p corev1.Protocol, path *field.Path) field.ErrorList {
	return check.OneOf(p, path, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

func validateAffinity(spec *corev1.ServiceSpec) field.ErrorList {
	errs := check.OneOf(spec.SessionAffinity, specPath.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	path, config := specPath.Child("sessionAffinityConfig"), spec.SessionAffinityConfig
	if spec.SessionAffinity == corev1.ServiceAffinityNone && config != nil {
		return append(errs, field.Forbidden(path, "must not be set when session affinity is None"))
	}
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return errs
	}
	if config == nil {
		return append(errs, field.Required(path, "when session affinity type is ClientIP"))
	}
	if config.ClientIP == nil {
		return append(errs, field.Required(path.Child("clientIP"), "when session affinity type is ClientIP"))
	}
	const day = 24 * 60 * 60
	seconds := config.ClientIP.TimeoutSeconds
	if seconds == nil {
		return append(errs, field.Required(path.Child("clientIP", "timeoutSeconds"), "when session affinity type is ClientIP"))
	}
	if *seconds <= 0 || *seconds > day {
		errs = append(errs, field.Invalid(path.Child("clientIP", "timeoutSeconds"), *seconds, fmt.Sprintf("must be greater than 0 and less than %d", day)))
	}
	return errs
}

// validateClusterIPs checks clusterIP, clusterIPs, ipFamilies and
// ipFamilyPolicy against each other.
func validateClusterIPs(s, old *corev1.Service) field.ErrorList {
	if !hasClusterIP(s) {
		return nil
	}
	var errs field.ErrorList
	path, ips := specPath.Child("clusterIPs"), s.Spec.ClusterIPs
	switch {
	case s.Spec.ClusterIP == "" && len(ips) > 0:
		errs = append(errs, field.Invalid(path, ips, "must be empty when `clusterIP` is not specified"))
	case s.Spec.ClusterIP != "" && len(ips) == 0:
		errs = append(errs, field.Required(path, ""))
	case s.Spec.ClusterIP != "" && ips[0] != s.Spec.ClusterIP:
		errs = append(errs, field.Invalid(path, ips, "first value must match `clusterIP`"))
	}
	errs = append(errs, validateFamilies(&s.Spec)...)
	valid := true
	for i, ip := range ips {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(ips) > 1 {
				valid = false
				errs = append(errs, field.Invalid(path, ips, "'None' must be the first and only value"))
			}
			continue
		}
		wrong := validation.IsValidIPForLegacyField(path.Index(i), ip, true, clusterIPsOf(old))
		valid = valid && len(wrong) == 0
		errs = append(errs, wrong...)
	}
	if len(ips) > 2 {
		errs = append(errs, field.Invalid(path, ips, "may only hold up to 2 values"))
	}
	if !valid {
		return errs
	}
	if dual, err := netutils.IsDualStackIPStrings(ips); len(ips) > 1 && (err != nil || !dual) {
		errs = append(errs, field.Invalid(path, ips, "may specify no more than one IP for each IP family"))
	}
	if isHeadless(s) {
		return errs
	}
	for i, ip := range ips {
		if i >= len(s.Spec.IPFamilies) {
			break
		}
		family := s.Spec.IPFamilies[i]
		if (family == corev1.IPv6Protocol) != netutils.IsIPv6String(ip) && (family == corev1.IPv4Protocol || family == corev1.IPv6Protocol) {
			errs = append(errs, field.Invalid(path.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", family, i)))
		}
	}
	return errs
}

func clusterIPsOf(s *corev1.Service) []string {
	if s == nil {
		return nil
	}
	return s.Spec.ClusterIPs
}

func validateFamilies(spec *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[corev1.IPFamily]bool)
	for i, family := range spec.IPFamilies {
		path := specPath.Child("ipFamilies").Index(i)
		errs = append(errs, check.Supported(family, path, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen[family] {
			errs = append(errs, field.Duplicate(path, family))
		}
		seen[family] = true
	}
	if spec.IPFamilyPolicy != nil {
		errs = append(errs, check.Supported(*spec.IPFamilyPolicy, specPath.Child("ipFamilyPolicy"),
			corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	return errs
}

func validateExternalIPs(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	var before []string
	if old != nil {
		before = old.Spec.ExternalIPs
	}
	for i, ip := range s.Spec.ExternalIPs {
		path := specPath.Child("externalIPs").Index(i)
		wrong := validation.IsValidIPForLegacyField(path, ip, true, before)
		if len(wrong) == 0 {
			wrong = validateEndpointIP(ip, path)
		}
		errs = append(errs, wrong...)
	}
	return errs
}

// validatePortNumbers finds node ports where there can be none, and pairs of
// protocol and number used twice.
func validatePortNumbers(s *corev1.Service) field.ErrorList {
	var errs, nodePorts, duplicates field.ErrorList
	onNode, onService := make(map[corev1.ServicePort]bool), make(map[corev1.ServicePort]bool)
	for i, p := range s.Spec.Ports {
		path := specPath.Child("ports").Index(i)
		if s.Spec.Type == corev1.ServiceTypeClusterIP && p.NodePort != 0 {
			errs = append(errs, field.Forbidden(path.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
		node := corev1.ServicePort{Protocol: p.Protocol, NodePort: p.NodePort}
		if p.NodePort != 0 && onNode[node] {
			nodePorts = append(nodePorts, field.Duplicate(path.Child("nodePort"), p.NodePort))
		}
		service := corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}
		if onService[service] {
			duplicates = append(duplicates, field.Duplicate(path, podspec.Untagged(service)))
		}
		onNode[node], onService[service] = true, true
	}
	return append(append(errs, nodePorts...), duplicates...)
}

func validateSourceRanges(s, old *corev1.Service) field.ErrorList {
	const refused = "may only be used when `type` is 'LoadBalancer'"
	var errs field.ErrorList
	if len(s.Spec.LoadBalancerSourceRanges) > 0 {
		path := specPath.Child("LoadBalancerSourceRanges")
		if !isLoadBalancer(s) {
			errs = append(errs, field.Forbidden(path, refused))
		}
		var before []string
		if old != nil {
			before = trimAll(old.Spec.LoadBalancerSourceRanges)
		}
		for i, cidr := range trimAll(s.Spec.LoadBalancerSourceRanges) {
			errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), cidr, true, before)...)
		}
		return errs
	}
	value, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok {
		return nil
	}
	path := field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if !isLoadBalancer(s) {
		errs = append(errs, field.Forbidden(path, refused))
	}
	if old != nil && old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey] == value || strings.TrimSpace(value) == "" {
		return errs
	}
	for _, cidr := range trimAll(strings.Split(value, ",")) {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path, cidr, true, nil)...)
	}
	return errs
}

func trimAll(list []string) []string {
	trimmed := make([]string, len(list))
	for i, s := range list {
		trimmed[i] = strings.TrimSpace(s)
	}
	return trimmed
}

func validateLoadBalancer(s *corev1.Service) field.ErrorList {
	const refused = "may only be used when `type` is 'LoadBalancer'"
	var errs field.ErrorList
	if !isLoadBalancer(s) {
		if s.Spec.AllocateLoadBalancerNodePorts != nil {
			errs = append(errs, field.Forbidden(specPath.Child("allocateLoadBalancerNodePorts"), refused))
		}
		if s.Spec.LoadBalancerClass != nil {
			errs = append(errs, field.Forbidden(specPath.Child("loadBalancerClass"), refused))
		}
		return errs
	}
	if s.Spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
	}
	if class := s.Spec.LoadBalancerClass; class != nil {
		for _, msg := range validation.IsQualifiedName(*class) {
			errs = append(errs, field.Invalid(specPath.Child("loadBalancerClass"), *class, msg))
		}
	}
	return errs
}

func validateTrafficPolicies(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	external := specPath.Child("externalTrafficPolicy")
	if externallyAccessible(s) {
		errs = check.OneOf(s.Spec.ExternalTrafficPolicy, external, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if s.Spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(external, s.Spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	errs = append(errs, validateHealthCheckPort(s)...)
	internal := specPath.Child("internalTrafficPolicy")
	if p := s.Spec.InternalTrafficPolicy; p != nil {
		errs = append(errs, check.Supported(*p, internal, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if hasClusterIP(s) {
		errs = append(errs, field.Required(internal, ""))
	}
	if t := s.Spec.TrafficDistribution; t != nil {
		errs = append(errs, check.Supported(*t, specPath.Child("trafficDistribution"),
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

func validateHealthCheckPort(s *corev1.Service) field.ErrorList {
	path, port := specPath.Child("healthCheckNodePort"), s.Spec.HealthCheckNodePort
	switch {
	case !hasHealthCheck(s) && port != 0:
		return field.ErrorList{field.Invalid(path, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")}
	case hasHealthCheck(s) && port == 0:
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if port != 0 {
		for _, wrong := range validation.IsValidPortNum(int(port)) {
			errs = append(errs, field.Invalid(path, port, wrong))
		}
	}
	return errs
}

// validateServiceUpdate keeps what must not change while a Service has a
// cluster address.
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if hasClusterIP(s) && hasClusterIP(old) {
		if !isHeadless(s) || !isHeadless(old) {
			errs = append(errs, validateAddressChange(s, old)...)
		}
		if !isHeadless(s) && !isHeadless(old) {
			errs = append(errs, validateFamilyChange(s, old)...)
		}
	}
	if isLoadBalancer(s) && isLoadBalancer(old) && !ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(specPath.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if hasHealthCheck(s) && hasHealthCheck(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(specPath.Child("healthCheckNodePort"), "field is immutable"))
	}
	return errs
}

func validateAddressChange(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	path, ips, before := specPath.Child("clusterIPs"), s.Spec.ClusterIPs, old.Spec.ClusterIPs
	if len(ips) < len(before) && len(ips) == 0 {
		return field.ErrorList{field.Invalid(path.Index(0), ips, "primary clusterIP can not be unset")}
	}
	compared := before
	if len(ips) != len(before) {
		compared = before[:min(1, len(before))]
	}
	for i := range compared {
		if ips[i] != before[i] {
			errs = append(errs, field.Invalid(path.Index(i), ips, "may not change once set"))
		}
	}
	if len(before) > 1 && len(ips) == 1 && ptr.Deref(s.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(specPath.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

func validateFamilyChange(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	path, families, before := specPath.Child("ipFamilies").Index(0), s.Spec.IPFamilies, old.Spec.IPFamilies
	if len(families) < len(before) && len(families) == 0 {
		return field.ErrorList{field.Invalid(path, families, "primary ipFamily can not be unset")}
	}
	// With another number of families kube-apiserver shows the addresses instead.
	compared, shown := before, any(families)
	if len(families) != len(before) {
		compared, shown = before[:min(1, len(before))], s.Spec.ClusterIPs
	}
	for i := range compared {
		if families[i] != before[i] {
			errs = append(errs, field.Invalid(path, shown, "may not change once set"))
		}
	}
	if len(before) > 1 && len(families) == 1 && ptr.Deref(s.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(specPath.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

func validateServiceStatus(s, old *corev1.Service) field.ErrorList {
	return ValidateIngressPoints(s, old)
}

// ValidateIngressPoints checks status.loadBalancer of a Service.
func ValidateIngressPoints(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "loadBalancer", "ingress")
	ingress := s.Status.LoadBalancer.Ingress
	if !isLoadBalancer(s) && len(ingress) > 0 {
		return field.ErrorList{field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var before []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		before = append(before, in.IP)
	}
	for i, in := range ingress {
		p := path.Index(i)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(p.Child("ip"), in.IP, true, before)...)
		}
		switch {
		case in.IP != "" && in.IPMode == nil:
			errs = append(errs, field.Required(p.Child("ipMode"), "must be specified when `ip` is set"))
		case in.IPMode != nil && in.IP == "":
			errs = append(errs, field.Forbidden(p.Child("ipMode"), "may not be specified when `ip` is not set"))
		case in.IPMode != nil:
			errs = append(errs, check.Supported(*in.IPMode, p.Child("ipMode"), corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
		if in.Hostname != "" {
			errs = append(errs, validateHostname(in.Hostname, p.Child("hostname"))...)
		}
	}
	return errs
}

func validateHostname(name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	if netutils.ParseIPSloppy(name) != nil {
		errs = append(errs, field.Invalid(path, name, "must be a DNS name, not an IP address"))
	}
	return errs
}
