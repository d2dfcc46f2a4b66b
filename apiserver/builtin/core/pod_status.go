package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// validatePodStatus checks what nodes, schedulers and claim controllers write.
func validatePodStatus(obj, old *corev1.Pod) field.ErrorList {
	now, was, path := &obj.Status, &old.Status, podStatusPath
	errs := validateAnnotationsUpdate(obj, old)
	errs = append(errs, validatePodConditions(now.Conditions, path.Child("conditions"))...)
	errs = append(errs, validateNomination(obj, old)...)
	if now.ObservedGeneration < 0 {
		errs = append(errs, field.Invalid(path.Child("observedGeneration"), now.ObservedGeneration, "must be a non-negative integer"))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(now.QOSClass, was.QOSClass, path.Child("qosClass"))...)
	if !restartsAll(&old.Spec) {
		errs = append(errs, validateTransitions(now.ContainerStatuses, was.ContainerStatuses, old, old.Spec.Containers, path.Child("containerStatuses"))...)
		errs = append(errs, validateTransitions(now.InitContainerStatuses, was.InitContainerStatuses, old, old.Spec.InitContainers, path.Child("initContainerStatuses"))...)
	}
	errs = append(errs, validateTransitions(now.EphemeralContainerStatuses, was.EphemeralContainerStatuses, old, nil, path.Child("ephemeralContainerStatuses"))...)
	errs = append(errs, validateClaimStatuses(obj)...)
	errs = append(errs, validateExtendedClaim(obj)...)
	errs = append(errs, validatePodIPs(now, was)...)
	errs = append(errs, validateHostIPs(now, was)...)
	for _, list := range []struct {
		name       string
		statuses   []corev1.ContainerStatus
		containers []corev1.Container
	}{
		{"containerStatuses", now.ContainerStatuses, obj.Spec.Containers},
		{"initContainerStatuses", now.InitContainerStatuses, obj.Spec.InitContainers},
		{"ephemeralContainerStatuses", now.EphemeralContainerStatuses, nil},
	} {
		at := path.Child(list.name)
		for i := range list.statuses {
			errs = append(errs, validateUser(list.statuses[i].User, obj.Spec.OS, at.Index(i).Child("user", "linux"))...)
			errs = append(errs, validateAllocated(&list.statuses[i], list.containers, at.Index(i).Child("allocatedResourcesStatus"))...)
		}
	}
	return errs
}

func validatePodConditions(conditions []corev1.PodCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range conditions {
		if c.ObservedGeneration < 0 {
			errs = append(errs, field.Invalid(path.Index(i).Child("observedGeneration"), c.ObservedGeneration, "must be a non-negative integer"))
		}
		for _, msg := range validation.IsQualifiedName(string(c.Type)) {
			errs = append(errs, field.Invalid(path.Index(i).Child("Type"), string(c.Type), msg))
		}
	}
	return errs
}

// validateNomination checks the node a pod is to get by preemption.
func validateNomination(obj, old *corev1.Pod) field.ErrorList {
	name, path := obj.Status.NominatedNodeName, podStatusPath.Child("nominatedNodeName")
	if name == "" || name == old.Status.NominatedNodeName {
		return nil
	}
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	if old.Spec.NodeName != "" {
		errs = append(errs, field.Forbidden(path, "may not be set on pods that are already bound to a node"))
	}
	return errs
}

// restartsAll reports whether a container's end may restart all containers.
func restartsAll(s *corev1.PodSpec) bool {
	return slices.ContainsFunc(slices.Concat(s.InitContainers, s.Containers), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

// validateTransitions rejects that a container which has ended for good runs
// again.
func validateTransitions(now, was []corev1.ContainerStatus, pod *corev1.Pod, containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range was {
		ended := was[i].State.Terminated
		if ended == nil {
			continue
		}
		k := slices.IndexFunc(now, func(s corev1.ContainerStatus) bool { return s.Name == was[i].Name })
		if k < 0 || now[k].State.Terminated != nil {
			continue
		}
		c := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == was[i].Name })
		if c < 0 || !restarts(&containers[c], pod.Spec.RestartPolicy, ended.ExitCode) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}

// restarts reports whether a container that ended with code is started again:
// its rules decide, then its policy, then that of the pod.
func restarts(c *corev1.Container, policy corev1.RestartPolicy, code int32) bool {
	if c.RestartPolicy != nil {
		for _, rule := range c.RestartPolicyRules {
			if rule.ExitCodes == nil {
				continue
			}
			in := slices.Contains(rule.ExitCodes.Values, code)
			if in == (rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
				return true
			}
		}
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

func validateClaimStatuses(p *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	path, seen := podStatusPath.Child("resourceClaimStatuses"), make(map[string]bool)
	for i, s := range p.Status.ResourceClaimStatuses {
		at := path.Index(i)
		if !slices.ContainsFunc(p.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool { return c.Name == s.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if seen[s.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), s.Name))
		}
		seen[s.Name] = true
		if s.ResourceClaimName != nil {
			for _, msg := range validation.IsDNS1123Subdomain(*s.ResourceClaimName) {
				errs = append(errs, field.Invalid(at.Child("resourceClaimName"), s.ResourceClaimName, msg))
			}
		}
	}
	return errs
}

// validateExtendedClaim checks the claim made for extended resources that
// devices of dynamic resource allocation provide (KEP 5004).
func validateExtendedClaim(p *corev1.Pod) field.ErrorList {
	s, path := p.Status.ExtendedResourceClaimStatus, podStatusPath.Child("extendedResourceClaimStatus")
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	mappings := path.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		errs = append(errs, field.Required(mappings, "at least one request mapping is required"))
	}
	containers := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	seen := make(map[corev1.ContainerExtendedResourceRequest]bool)
	for i, m := range s.RequestMappings {
		at := mappings.Index(i)
		c := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == m.ContainerName })
		if c < 0 {
			errs = append(errs, field.Invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, ok := containers[c].Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok {
			errs = append(errs, field.Invalid(at.Child("resourceName"), m.ResourceName, "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		for _, msg := range validation.IsDNS1123Label(m.RequestName) {
			errs = append(errs, field.Invalid(path.Child("requestName"), m.RequestName, msg))
		}
		if seen[m] {
			errs = append(errs, field.Duplicate(at.Child("containerName"), m.ContainerName), field.Duplicate(at.Child("resourceName"), m.ResourceName), field.Duplicate(at.Child("requestName"), m.RequestName))
		}
		seen[m] = true
	}
	if s.ResourceClaimName == "" {
		return append(errs, field.Required(path.Child("resourceClaimName"), ""))
	}
	for _, msg := range validation.IsDNS1123Subdomain(s.ResourceClaimName) {
		errs = append(errs, field.Invalid(path.Child("resourceClaimName"), s.ResourceClaimName, msg))
	}
	return errs
}

func validatePodIPs(now, was *corev1.PodStatus) field.ErrorList {
	list := func(s *corev1.PodStatus) []string {
		ips := make([]string, len(s.PodIPs))
		for i := range s.PodIPs {
			ips[i] = s.PodIPs[i].IP
		}
		return ips
	}
	return validateIPs(list(now), list(was), now.PodIPs, podStatusPath.Child("podIPs"))
}

func validateHostIPs(now, was *corev1.PodStatus) field.ErrorList {
	if len(now.HostIPs) == 0 {
		return nil
	}
	path := podStatusPath.Child("hostIPs")
	var errs field.ErrorList
	if now.HostIP != now.HostIPs[0].IP {
		errs = append(errs, field.Invalid(path.Index(0).Child("ip"), now.HostIPs[0].IP, "must be equal to `hostIP`"))
	}
	list := func(s *corev1.PodStatus) []string {
		ips := make([]string, len(s.HostIPs))
		for i := range s.HostIPs {
			ips[i] = s.HostIPs[i].IP
		}
		return ips
	}
	return append(errs, validateIPs(list(now), list(was), now.HostIPs, path)...)
}

// validateIPs demands one address, or two of different families. Addresses that
// were there before may be in any form.
func validateIPs(ips, before []string, value any, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Index(i), ip, true, before)...)
	}
	if len(ips) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%w", err)))
	}
	if !dual || len(ips) > 2 {
		errs = append(errs, field.Invalid(path, podspec.Untagged(value), "may specify no more than one IP for each IP family"))
	}
	return errs
}

func validateUser(u *corev1.ContainerUser, os *corev1.PodOS, path *field.Path) field.ErrorList {
	if u == nil || u.Linux == nil {
		return nil
	}
	if os != nil && os.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(path, "cannot be set for a windows pod")}
	}
	var errs field.ErrorList
	id := func(at *field.Path, value int64, messages []string) {
		for _, msg := range messages {
			errs = append(errs, field.Invalid(at, value, msg))
		}
	}
	id(path.Child("uid"), u.Linux.UID, validation.IsValidUserID(u.Linux.UID))
	id(path.Child("gid"), u.Linux.GID, validation.IsValidGroupID(u.Linux.GID))
	for i, gid := range u.Linux.SupplementalGroups {
		id(path.Child("supplementalGroups").Index(i), gid, validation.IsValidGroupID(gid))
	}
	return errs
}

// validateAllocated checks what a node tells about the health of devices.
// containers is nil for ephemeral containers, which have none.
func validateAllocated(s *corev1.ContainerStatus, containers []corev1.Container, path *field.Path) field.ErrorList {
	if len(s.AllocatedResourcesStatus) == 0 {
		return nil
	}
	if containers == nil {
		return field.ErrorList{field.Forbidden(path, "must not be specified in container status")}
	}
	var errs field.ErrorList
	k := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == s.Name })
	for i, allocated := range s.AllocatedResourcesStatus {
		if k >= 0 {
			errs = append(errs, validateAllocatedName(allocated.Name, &containers[k], path.Index(i).Child("name"))...)
		}
		seen := make(map[corev1.ResourceID]bool)
		for n, r := range allocated.Resources {
			at := path.Index(i).Child("resources").Index(n)
			health := []corev1.ResourceHealthStatus{corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown}
			if !slices.Contains(health, r.Health) {
				slices.Sort(health)
				errs = append(errs, field.NotSupported(at.Child("health"), r.Health, health))
			}
			if r.Message != nil && *r.Message == "" {
				errs = append(errs, field.Required(at.Child("message"), "must be non-empty if specified"))
			} else if r.Message != nil && len(*r.Message) > corev1.ResourceHealthMessageMaxLength {
				errs = append(errs, field.TooLong(at.Child("message"), *r.Message, corev1.ResourceHealthMessageMaxLength))
			}
			if seen[r.ResourceID] {
				errs = append(errs, field.Duplicate(at.Child("resourceID"), r.ResourceID))
			}
			seen[r.ResourceID] = true
		}
	}
	return errs
}

func validateAllocatedName(name corev1.ResourceName, c *corev1.Container, path *field.Path) field.ErrorList {
	if !strings.HasPrefix(string(name), "claim:") {
		if _, ok := c.Resources.Requests[name]; ok {
			return nil
		}
		return field.ErrorList{field.Invalid(path, name, "must match one of the container's resource requests")}
	}
	for _, claim := range c.Resources.Claims {
		want := "claim:" + claim.Name
		if claim.Request != "" {
			want += "/" + claim.Request
		}
		if string(name) == want {
			return nil
		}
	}
	return field.ErrorList{field.Invalid(path, name, "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty")}
}

func warnPodStatus(obj, _ *corev1.Pod) []string {
	var warnings []string
	for i, ip := range obj.Status.PodIPs {
		warnings = append(warnings, validation.GetWarningsForIP(podStatusPath.Child("podIPs").Index(i).Child("ip"), ip.IP)...)
	}
	for i, ip := range obj.Status.HostIPs {
		warnings = append(warnings, validation.GetWarningsForIP(podStatusPath.Child("hostIPs").Index(i).Child("ip"), ip.IP)...)
	}
	return warnings
}
