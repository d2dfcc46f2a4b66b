package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

// The resource names without a domain that mean something to the API, in quotas
// too.
var standardResources = []v1.ResourceName{
	v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage,
	v1.ResourceRequestsCPU, v1.ResourceRequestsMemory, v1.ResourceRequestsEphemeralStorage,
	v1.ResourceLimitsCPU, v1.ResourceLimitsMemory, v1.ResourceLimitsEphemeralStorage,
	v1.ResourcePods, v1.ResourceQuotas, v1.ResourceServices, v1.ResourceReplicationControllers,
	v1.ResourceSecrets, v1.ResourceConfigMaps, v1.ResourcePersistentVolumeClaims,
	v1.ResourceStorage, v1.ResourceRequestsStorage, v1.ResourceServicesNodePorts, v1.ResourceServicesLoadBalancers,
}

// countedResources are whole numbers.
var countedResources = []v1.ResourceName{
	v1.ResourcePods, v1.ResourceQuotas, v1.ResourceServices, v1.ResourceReplicationControllers,
	v1.ResourceSecrets, v1.ResourceConfigMaps, v1.ResourcePersistentVolumeClaims,
	v1.ResourceServicesNodePorts, v1.ResourceServicesLoadBalancers,
}

// IsNative reports whether a resource is Kubernetes' own: without a domain or
// of kubernetes.io.
func IsNative(name v1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), v1.ResourceDefaultNamespacePrefix)
}

// IsExtended reports whether a resource belongs to a device or the like and has
// a name that can be counted in quotas.
func IsExtended(name v1.ResourceName) bool {
	return !IsNative(name) && !strings.HasPrefix(string(name), v1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(v1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// overcommits reports whether containers may request less than their limit.
func overcommits(name v1.ResourceName) bool { return IsNative(name) && !IsHugePages(name) }

// ValidateQuantity demands an amount of a resource that is not negative, and a
// whole number where the resource is counted.
func ValidateQuantity(name v1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if negative(q) {
		errs = append(errs, field.Invalid(path, q.String(), "must be greater than or equal to 0"))
	}
	if (slices.Contains(countedResources, name) || IsExtended(name)) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(path, q, "must be an integer"))
	}
	return errs
}

// resourceName checks the name of a resource anywhere.
func resourceName(name v1.ResourceName, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsQualifiedName(string(name)) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	if len(errs) > 0 || strings.Contains(string(name), "/") {
		return errs
	}
	if slices.Contains(standardResources, name) || IsHugePages(name) || strings.HasPrefix(string(name), v1.ResourceRequestsHugePagesPrefix) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, name, "must be a standard resource type or fully qualified")}
}

// containerResource checks the name of a resource containers can ask for.
func containerResource(name v1.ResourceName, path *field.Path) field.ErrorList {
	errs := resourceName(name, path)
	switch qualified := strings.Contains(string(name), "/"); {
	case !qualified && name != v1.ResourceCPU && name != v1.ResourceMemory && name != v1.ResourceEphemeralStorage && !IsHugePages(name):
		errs = append(errs, field.Invalid(path, name, "must be a standard resource for containers"))
	case qualified && !IsNative(name) && !IsExtended(name):
		errs = append(errs, field.Invalid(path, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

// podResource checks the name of a resource a pod as a whole can ask for.
func podResource(name v1.ResourceName, path *field.Path) field.ErrorList {
	if errs := resourceName(name, path); len(errs) > 0 {
		return errs
	}
	if resourcehelper.IsSupportedPodLevelResource(name) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, name, slices.Sorted(maps.Keys(resourcehelper.SupportedPodLevelResources())))}
}

// checkRequirements checks requests and limits, in order of names.
func (v *validator) checkRequirements(r *v1.ResourceRequirements, nameOK func(v1.ResourceName, *field.Path) field.ErrorList, path *field.Path) {
	limits, requests := path.Child("limits"), path.Child("requests")
	compute, hugePages := false, false
	amount := func(name v1.ResourceName, q resource.Quantity, at *field.Path) {
		if IsHugePages(name) {
			hugePages = true
			if !v.opts.BadHugePages && !pagesFit(name, q) {
				v.invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))
			}
		}
		compute = compute || name == v1.ResourceCPU || name == v1.ResourceMemory
	}
	for _, name := range slices.Sorted(maps.Keys(r.Limits)) {
		q, at := r.Limits[name], limits.Key(string(name))
		v.add(nameOK(name, at)...)
		v.add(ValidateQuantity(name, q, at)...)
		amount(name, q, at)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		q, at := r.Requests[name], requests.Key(string(name))
		v.add(nameOK(name, at)...)
		v.add(ValidateQuantity(name, q, at)...)
		switch limit, ok := r.Limits[name]; {
		case !ok && !overcommits(name):
			v.required(limits, "Limit must be set for non overcommitable resources")
		case ok && q.Cmp(limit) != 0 && !overcommits(name):
			v.invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))
		case ok && q.Cmp(limit) > 0:
			v.invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))
		}
		amount(name, q, at)
	}
	if hugePages && !compute {
		v.forbidden(path, "HugePages require cpu or memory")
	}
	v.checkClaimNames(r.Claims, path.Child("claims"))
}

// pagesFit reports whether an amount is a number of pages of the size in name.
func pagesFit(name v1.ResourceName, q resource.Quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), v1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 || size.MilliValue()%1000 != 0 {
		return false
	}
	return q.Value()%size.Value() == 0
}

// checkResourceClaims checks the claims of a pod and notes their names.
func (v *validator) checkResourceClaims(path *field.Path) {
	seen := make(map[string]bool)
	for i := range v.spec.ResourceClaims {
		c, at := &v.spec.ResourceClaims[i], path.Index(i)
		if c.Name != "" && !seen[c.Name] {
			v.claims = append(v.claims, c.Name)
		}
		if v.meta != nil && hasKey(v.meta.Annotations, v1.MirrorPodAnnotationKey) {
			v.forbidden(field.NewPath(""), "static pods do not support resource claims")
			continue
		}
		switch {
		case c.Name == "":
			v.required(at.Child("name"), "")
		case seen[c.Name]:
			v.add(field.Duplicate(at.Child("name"), c.Name))
		default:
			v.label(at.Child("name"), c.Name)
		}
		seen[c.Name] = true
		if c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil {
			v.invalid(at, Untagged(*c), "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		}
		if c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil {
			v.invalid(at, Untagged(*c), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		}
		if c.ResourceClaimName != nil {
			v.subdomain(at.Child("resourceClaimName"), *c.ResourceClaimName)
		}
		if c.ResourceClaimTemplateName != nil {
			v.subdomain(at.Child("resourceClaimTemplateName"), *c.ResourceClaimTemplateName)
		}
	}
	slices.Sort(v.claims)
}

func hasKey(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}

// checkClaimNames checks which claims of the pod a container uses. A claim can
// be used as a whole or by request, but not both.
func (v *validator) checkClaimNames(claims []v1.ResourceClaim, path *field.Path) {
	used := make(map[string]bool)   // whole claims and claim/request
	partly := make(map[string]bool) // claims used by request
	for i, c := range claims {
		at := path.Index(i)
		key := c.Name
		switch {
		case c.Name == "":
			v.required(at, "")
			continue
		case used[c.Name]:
			v.add(field.Duplicate(at, c.Name))
		default:
			if c.Request != "" {
				v.label(at.Child("request"), c.Request)
				key += "/" + c.Request
			}
			if used[key] {
				v.add(field.Duplicate(at, key))
			} else if c.Request == "" && partly[c.Name] {
				v.add(field.Duplicate(at, c.Name))
			}
			used[key] = true
			partly[c.Name] = partly[c.Name] || c.Request != ""
		}
		if _, ok := slices.BinarySearch(v.claims, c.Name); ok {
			continue
		}
		missing := field.NotFound(at, c.Name)
		missing.Detail = "must be one of the names in pod.spec.resourceClaims"
		if len(v.claims) == 0 {
			missing.Detail += " which is empty"
		} else {
			missing.Detail += ": " + strings.Join(v.claims, ", ")
		}
		v.add(missing)
	}
}

// checkPodResources checks the resources of the pod as a whole (KEP 2837)
// against what they must hold for.
func (v *validator) checkPodResources(path *field.Path) {
	r := v.spec.Resources
	if r == nil {
		return
	}
	if v.spec.OS != nil && v.spec.OS.Name == v1.Windows {
		v.forbidden(path, "may not be set for a windows pod")
		return
	}
	if r.Claims != nil {
		v.forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level")
	}
	v.checkRequirements(r, podResource, path)
	pod := &v1.Pod{Spec: *v.spec}
	v.checkAggregate(r.Requests, resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}),
		path.Child("requests"), "requests", func(v1.ResourceName) bool { return true })
	v.checkAggregate(r.Limits, resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{}),
		path.Child("limits"), "limits", IsHugePages)
	for i := range v.spec.Containers {
		c := &v.spec.Containers[i]
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
			limit := c.Resources.Limits[name]
			if of, ok := r.Limits[name]; ok && limit.Cmp(of) > 0 {
				v.invalid(path.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(), fmt.Sprintf("must be less than or equal to pod limits of %s", of.String()))
			}
		}
	}
}

func (v *validator) checkAggregate(ofPod, ofContainers v1.ResourceList, path *field.Path, what string, counts func(v1.ResourceName) bool) {
	for _, name := range slices.Sorted(maps.Keys(ofContainers)) {
		sum := ofContainers[name]
		if q, ok := ofPod[name]; ok && counts(name) && sum.Cmp(q) > 0 {
			v.invalid(path.Key(string(name)), q.String(), fmt.Sprintf("must be greater than or equal to aggregate container %s of %s", what, sum.String()))
		}
	}
}
