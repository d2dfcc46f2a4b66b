package podspec

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Untagged makes a value print in messages the way the API prints it: its own
// types have no JSON names, so their fields appear as they are called in Go,
// empty ones included. Types that carry their names everywhere (selectors,
// quantities, times) print as usual.
func Untagged(value any) json.Marshaler { return untagged{reflect.ValueOf(value)} }

type untagged struct{ value reflect.Value }

// MarshalJSON implements json.Marshaler.
func (u untagged) MarshalJSON() ([]byte, error) {
	v := u.value
	if !v.IsValid() {
		return []byte("null"), nil
	}
	if _, ok := v.Interface().(json.Marshaler); ok || sharedType(v.Type()) {
		return json.Marshal(v.Interface())
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return []byte("null"), nil
		}
		return untagged{v.Elem()}.MarshalJSON()
	case reflect.Slice:
		if v.IsNil() || v.Type().Elem().Kind() == reflect.Uint8 {
			return json.Marshal(v.Interface())
		}
		list := make([]untagged, v.Len())
		for i := range list {
			list[i] = untagged{v.Index(i)}
		}
		return json.Marshal(list)
	case reflect.Struct:
		return u.fields()
	}
	return json.Marshal(v.Interface())
}

// podSpecFields, podSecurityFields and volumeFields are the fields of a pod spec,
// of its security context and of a volume as the API's own types have them: in
// their order, and with what is about namespaces in the security context.
var (
	podSpecFields = strings.Fields(`Volumes InitContainers Containers EphemeralContainers RestartPolicy TerminationGracePeriodSeconds
		ActiveDeadlineSeconds DNSPolicy NodeSelector ServiceAccountName AutomountServiceAccountToken NodeName SecurityContext
		ImagePullSecrets Hostname Subdomain SetHostnameAsFQDN Affinity SchedulerName Tolerations HostAliases PriorityClassName
		Priority PreemptionPolicy DNSConfig ReadinessGates RuntimeClassName Overhead EnableServiceLinks TopologySpreadConstraints
		OS SchedulingGates ResourceClaims Resources HostnameOverride SchedulingGroup`)
	podSecurityFields = strings.Fields(`HostNetwork HostPID HostIPC ShareProcessNamespace HostUsers SELinuxOptions WindowsOptions
		RunAsUser RunAsGroup RunAsNonRoot SupplementalGroups SupplementalGroupsPolicy FSGroup FSGroupChangePolicy Sysctls
		SeccompProfile AppArmorProfile SELinuxChangePolicy`)
	volumeFields = strings.Fields(`HostPath EmptyDir GCEPersistentDisk AWSElasticBlockStore GitRepo Secret NFS ISCSI Glusterfs
		PersistentVolumeClaim RBD Quobyte FlexVolume Cinder CephFS Flocker DownwardAPI FC AzureFile ConfigMap VsphereVolume
		AzureDisk PhotonPersistentDisk Projected PortworxVolume ScaleIO StorageOS CSI Ephemeral Image`)
)

func (u untagged) fields() ([]byte, error) {
	byName := func(name string) json.Marshaler { return untagged{u.value.FieldByName(name)} }
	switch spec := u.value.Interface().(type) {
	case v1.PodSpec:
		return object(podSpecFields, func(name string) json.Marshaler {
			if name == "SecurityContext" {
				return podSecurity{&spec}
			}
			return byName(name)
		})
	case v1.VolumeSource:
		return object(volumeFields, byName)
	}
	var names []string
	t := u.value.Type()
	for i := range t.NumField() {
		names = append(names, t.Field(i).Name)
	}
	return object(names, byName, anonymous(t)...)
}

// podSecurity is the security context of a pod spec.
type podSecurity struct{ spec *v1.PodSpec }

// MarshalJSON implements json.Marshaler.
func (p podSecurity) MarshalJSON() ([]byte, error) {
	if p.spec.SecurityContext == nil {
		return []byte("null"), nil
	}
	spec, context := reflect.ValueOf(*p.spec), reflect.ValueOf(*p.spec.SecurityContext)
	return object(podSecurityFields, func(name string) json.Marshaler {
		if v := context.FieldByName(name); v.IsValid() {
			return untagged{v}
		}
		return untagged{spec.FieldByName(name)}
	})
}

// anonymous lists the embedded fields of a struct, which appear as its own.
func anonymous(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if t.Field(i).Anonymous {
			names = append(names, t.Field(i).Name)
		}
	}
	return names
}

// object writes fields in order; those in inline without their own braces.
func object(names []string, field func(name string) json.Marshaler, inline ...string) ([]byte, error) {
	var buf bytes.Buffer
	for _, name := range names {
		value, err := field(name).MarshalJSON()
		if err != nil {
			return nil, err
		}
		if slices.Contains(inline, name) {
			value = value[1 : len(value)-1]
		} else {
			value = append(strconv.AppendQuote(nil, name), append([]byte{':'}, value...)...)
		}
		if len(value) == 0 {
			continue
		}
		if buf.Len() > 0 {
			buf.WriteByte(',')
		}
		buf.Write(value)
	}
	return append(append([]byte{'{'}, buf.Bytes()...), '}'), nil
}

// sharedType reports whether a type has JSON names in the server too: those of
// apimachinery.
func sharedType(t reflect.Type) bool {
	switch t.PkgPath() {
	case "k8s.io/apimachinery/pkg/apis/meta/v1", "k8s.io/apimachinery/pkg/api/resource", "k8s.io/apimachinery/pkg/util/intstr":
		return true
	}
	return false
}

// Immutable demands that a value has not changed, and prints it untagged.
func Immutable(now, was any, path *field.Path) field.ErrorList {
	if equality.Semantic.DeepEqual(now, was) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, Untagged(now), apivalidation.FieldImmutableErrorMsg)}
}
