package podspec

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The fields of a pod that its containers can be told, sorted as messages list
// them.
var (
	envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFields   = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	knownFields  = append([]string{"metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"}, envFields...)
	resourceRefs = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func (v *validator) checkEnv(vars []v1.EnvVar, path *field.Path) {
	for i := range vars {
		e, at := &vars[i], path.Index(i)
		if v.need(at.Child("name"), e.Name) {
			v.messages(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))
		}
		if e.ValueFrom != nil {
			v.checkValueFrom(e, at.Child("valueFrom"))
		}
	}
}

func (v *validator) checkValueFrom(e *v1.EnvVar, path *field.Path) {
	from, sources := e.ValueFrom, 0
	if from.FieldRef != nil {
		sources++
		v.checkFieldRef(from.FieldRef, envFields, path.Child("fieldRef"))
	}
	if from.ResourceFieldRef != nil {
		sources++
		v.checkResourceRef(from.ResourceFieldRef, path.Child("resourceFieldRef"), false)
	}
	if r := from.ConfigMapKeyRef; r != nil {
		sources++
		v.checkKeyRef(r.Name, r.Key, path.Child("configMapKeyRef"))
	}
	if r := from.SecretKeyRef; r != nil {
		sources++
		v.checkKeyRef(r.Name, r.Key, path.Child("secretKeyRef"))
	}
	if from.FileKeyRef != nil {
		sources++
		v.checkFileKey(from.FileKeyRef, path.Child("fileKeyRef"))
	}
	switch {
	case sources == 0:
		v.invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case e.Value != "":
		v.invalid(path, "", "may not be specified when `value` is not empty")
	case sources > 1:
		v.invalid(path, "", "may not have more than one field specified at a time")
	}
}

func (v *validator) checkKeyRef(name, key string, path *field.Path) {
	v.subdomain(path.Child("name"), name)
	if v.need(path.Child("key"), key) {
		v.messages(path.Child("key"), key, validation.IsConfigMapKey(key))
	}
}

func (v *validator) checkFileKey(r *v1.FileKeySelector, path *field.Path) {
	if v.need(path.Child("key"), r.Key) {
		v.messages(path.Child("key"), r.Key, validation.IsRelaxedEnvVarName(r.Key))
	}
	if v.need(path.Child("volumeName"), r.VolumeName) {
		v.label(path.Child("volumeName"), r.VolumeName)
	}
	if v.need(path.Child("path"), r.Path) {
		v.noBacksteps(r.Path, path.Child("path"))
	}
}

// checkFileKeyVolumes demands that variables from files come from scratch
// volumes of the pod.
func (v *validator) checkFileKeyVolumes() {
	v.eachContainer(func(c *v1.Container, path *field.Path) {
		for i, e := range c.Env {
			if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
				continue
			}
			name, at := e.ValueFrom.FileKeyRef.VolumeName, path.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			k := slices.IndexFunc(v.spec.Volumes, func(volume v1.Volume) bool { return volume.Name == name })
			switch {
			case k < 0:
				v.add(field.NotFound(at, name))
			case v.spec.Volumes[k].EmptyDir == nil:
				v.invalid(at, name, "referenced volume must be of type emptyDir")
			}
		}
	})
}

func (v *validator) checkEnvFrom(sources []v1.EnvFromSource, path *field.Path) {
	for i := range sources {
		s, at := &sources[i], path.Index(i)
		if s.Prefix != "" {
			v.messages(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))
		}
		if s.ConfigMapRef != nil {
			v.checkPrefixName(s.ConfigMapRef.Name, at.Child("configMapRef", "name"))
		}
		if s.SecretRef != nil {
			v.checkPrefixName(s.SecretRef.Name, at.Child("secretRef", "name"))
		}
		switch {
		case s.ConfigMapRef == nil && s.SecretRef == nil:
			v.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
		case s.ConfigMapRef != nil && s.SecretRef != nil:
			v.invalid(path, "", "may not have more than one field specified at a time")
		}
	}
}

// checkPrefixName checks a name as loosely as the prefix of a generated one.
func (v *validator) checkPrefixName(name string, path *field.Path) {
	if v.need(path, name) {
		v.messages(path, name, validation.IsDNS1123Subdomain(maskTrailingDash(name)))
	}
}

// maskTrailingDash lets a name end in a dash, as prefixes of names may.
func maskTrailingDash(name string) string {
	if len(name) > 1 && strings.HasSuffix(name, "-") {
		return name[:len(name)-2] + "a"
	}
	return name
}

// splitSubscript splits "metadata.labels['key']" into path and key.
func splitSubscript(path string) (string, string, bool) {
	inner, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	before, key, ok := strings.Cut(inner, "['")
	if !ok || before == "" {
		return path, "", false
	}
	return before, key, true
}

func (v *validator) checkFieldRef(r *v1.ObjectFieldSelector, allowed []string, path *field.Path) {
	if !v.need(path.Child("apiVersion"), r.APIVersion) || !v.need(path.Child("fieldPath"), r.FieldPath) {
		return
	}
	at := path.Child("fieldPath")
	unknown := func(reason string) {
		v.invalid(at, r.FieldPath, "error converting fieldPath: "+reason)
	}
	name, key, subscripted := splitSubscript(r.FieldPath)
	switch {
	case r.APIVersion != "v1":
		unknown("unsupported pod version: " + r.APIVersion)
	case subscripted && name == "metadata.annotations":
		v.qualified(path, strings.ToLower(key))
	case subscripted && name == "metadata.labels":
		v.qualified(path, key)
	case subscripted:
		unknown("field label does not support subscript: " + r.FieldPath)
	case name == "spec.host": // as old clients call it
		oneOf(v, at, "spec.nodeName", allowed...)
	case !slices.Contains(knownFields, name):
		unknown("field label not supported: " + name)
	default:
		oneOf(v, at, name, allowed...)
	}
}

func (v *validator) checkResourceRef(r *v1.ResourceFieldSelector, path *field.Path, inVolume bool) {
	hugePages := strings.HasPrefix(r.Resource, "limits.hugepages-") || strings.HasPrefix(r.Resource, "requests.hugepages-")
	switch {
	case inVolume && r.ContainerName == "":
		v.required(path.Child("containerName"), "")
	case r.Resource == "":
		v.required(path.Child("resource"), "")
	case !hugePages:
		oneOf(v, path.Child("resource"), r.Resource, resourceRefs...)
	}
	v.checkDivisor(r.Resource, r.Divisor, path.Child("divisor"))
}

var byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}

func (v *validator) checkDivisor(name string, divisor resource.Quantity, path *field.Path) {
	if divisor.IsZero() {
		return
	}
	allowed, what := byteDivisors, ""
	_, kind, _ := strings.Cut(name, ".")
	switch {
	case kind == "cpu":
		allowed, what = []string{"1m", "1"}, "cpu"
	case kind == "memory":
		what = "memory"
	case kind == "ephemeral-storage":
		what = "local ephemeral storage"
	case strings.HasPrefix(kind, v1.ResourceHugePagesPrefix):
		what = "hugepages"
	default:
		return
	}
	if slices.Contains(allowed, divisor.String()) {
		return
	}
	list := strings.Join(allowed, ", ")
	if kind == "cpu" {
		list = "1m and 1"
	}
	v.invalid(path, name, fmt.Sprintf("only divisor's values %s are supported with the %s resource", list, what))
}
