package core

import (
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// DefaultVolumeSpec fills what is left out of the source of a volume, also of
// the sources whose drivers have left Kubernetes: the API still describes them.
func DefaultVolumeSpec(s *corev1.PersistentVolumeSpec) {
	if s.HostPath != nil && s.HostPath.Type == nil {
		s.HostPath.Type = ptr.To(corev1.HostPathUnset)
	}
	set := func(to *string, value string) {
		if *to == "" {
			*to = value
		}
	}
	if v := s.ISCSI; v != nil {
		set(&v.ISCSIInterface, "default")
	}
	if v := s.RBD; v != nil {
		set(&v.RBDPool, "rbd")
		set(&v.RadosUser, "admin")
		set(&v.Keyring, "/etc/ceph/keyring")
	}
	if v := s.ScaleIO; v != nil {
		set(&v.StorageMode, "ThinProvisioned")
		set(&v.FSType, "xfs")
	}
	if v := s.AzureDisk; v != nil {
		podspec.DefaultAzureDisk(v)
	}
	roundQuantities(s.Capacity)
}

// ValidateInlineVolume checks the volume an attachment brings with it, which
// has less to say than one of its own.
func ValidateInlineVolume(s *corev1.PersistentVolumeSpec, at *field.Path) field.ErrorList {
	const inline = " in the context of inline volumes"
	var errs field.ErrorList
	forbid := func(is bool, name, detail string) {
		if is {
			errs = append(errs, field.Forbidden(at.Child(name), detail+inline))
		}
	}
	forbid(s.ClaimRef != nil, "claimRef", "may not be specified")
	forbid(len(s.Capacity) > 0, "capacity", "may not be specified")
	if s.CSI == nil {
		errs = append(errs, field.Required(at.Child("csi"), "has to be specified"+inline))
	}
	errs = append(errs, validateAccessModes(s.AccessModes, at.Child("accessModes"))...)
	policy := s.PersistentVolumeReclaimPolicy
	forbid(policy != "" && policy != corev1.PersistentVolumeReclaimRetain, "persistentVolumeReclaimPolicy", "may only be Retain")
	forbid(s.NodeAffinity != nil, "nodeAffinity", "may not be specified")
	located := *s
	located.NodeAffinity = nil // it does not count
	errs = append(errs, validateVolumeSource(&located, at)...)
	forbid(s.StorageClassName != "", "storageClassName", "may not be specified")
	forbid(s.VolumeMode != nil && *s.VolumeMode != corev1.PersistentVolumeFilesystem, "volumeMode", "may not specify volumeMode other than Filesystem")
	return errs
}

// sourceOrder is the order in which sources are looked for: the first is the
// volume's, the others are too many.
var sourceOrder = []string{
	"hostPath", "gcePersistentDisk", "awsElasticBlockStore", "glusterfs", "flocker", "nfs", "rbd", "quobyte", "cephfs", "iscsi", "cinder", "fc",
	"flexVolume", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk", "scaleIO", "local", "storageos", "csi",
}

func validateVolumeSource(s *corev1.PersistentVolumeSpec, at *field.Path) field.ErrorList {
	names := volumeSources(&s.PersistentVolumeSource)
	if len(names) == 0 {
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	}
	errs := validateSource(s, names[0], at)
	for _, name := range names[1:] {
		switch name {
		case "flexVolume": // kube-apiserver does not count it
			errs = append(errs, validateSource(s, name, at)...)
			continue
		case "cephfs":
			name = "cephFS"
		}
		errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 volume type"))
	}
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	return errs
}

// volumeSources are the JSON names of the sources that are set.
func volumeSources(s *corev1.PersistentVolumeSource) []string {
	var names []string
	value := reflect.ValueOf(*s)
	for i := range value.NumField() {
		if !value.Field(i).IsNil() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return slices.Index(sourceOrder, a) - slices.Index(sourceOrder, b) })
	return names
}

// validateSource checks the source called name. Most are checked as in pods.
func validateSource(s *corev1.PersistentVolumeSpec, name string, at *field.Path) field.ErrorList {
	in := at.Child(name)
	switch name {
	case "hostPath":
		return podspec.ValidateVolumeSource(&corev1.VolumeSource{HostPath: s.HostPath}, at)
	case "nfs":
		return validateNFS(s.NFS, in)
	case "local":
		errs := validateVolumePath(s.Local.Path, in.Child("path"))
		if s.NodeAffinity == nil {
			errs = append(errs, field.Required(at.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
		return errs
	case "csi":
		return validateCSIVolume(s.CSI, in)
	}
	errs := podspec.ValidateVolumeSource(inPod(s, name), at)
	switch name {
	case "iscsi":
		for _, err := range errs { // in a pod they say a little more
			err.Detail = strings.TrimSuffix(err.Detail, " starting with iqn, eui, or naa")
		}
		if ref := s.ISCSI.SecretRef; ref != nil && ref.Name == "" {
			errs = append(errs, field.Required(in.Child("secretRef", "name"), ""))
		}
	case "cinder":
		errs = append(errs, needNamespace(s.Cinder.SecretRef, in)...)
	case "storageos":
		if ref := s.StorageOS.SecretRef; ref != nil {
			errs = append(errs, needNamespace(&corev1.SecretReference{Namespace: ref.Namespace}, in)...)
		}
	case "azureFile":
		if ns := s.AzureFile.SecretNamespace; ns != nil && *ns == "" {
			errs = append(errs, field.Required(in.Child("secretNamespace"), ""))
		}
	case "glusterfs":
		errs = append(errs, validateEndpointsNamespace(s.Glusterfs.EndpointsNamespace, in.Child("endpointsNamespace"))...)
	}
	return errs
}

func needNamespace(ref *corev1.SecretReference, at *field.Path) field.ErrorList {
	if ref == nil || ref.Namespace != "" {
		return nil
	}
	return field.ErrorList{field.Required(at.Child("secretRef", "namespace"), "")}
}

func validateEndpointsNamespace(ns *string, at *field.Path) field.ErrorList {
	switch {
	case ns == nil:
		return nil
	case *ns == "":
		return field.ErrorList{field.Invalid(at, *ns, "if the endpointnamespace is set, it must be a valid namespace name")}
	}
	return check.Label(*ns, at)
}

// inPod is what a source is called in a pod. Only what is checked is copied
// where types differ.
func inPod(s *corev1.PersistentVolumeSpec, name string) *corev1.VolumeSource {
	local := func(ref *corev1.SecretReference) *corev1.LocalObjectReference {
		if ref == nil {
			return nil
		}
		return &corev1.LocalObjectReference{Name: ref.Name}
	}
	p := new(corev1.VolumeSource)
	switch name {
	case "gcePersistentDisk":
		p.GCEPersistentDisk = s.GCEPersistentDisk
	case "awsElasticBlockStore":
		p.AWSElasticBlockStore = s.AWSElasticBlockStore
	case "glusterfs":
		p.Glusterfs = &corev1.GlusterfsVolumeSource{EndpointsName: s.Glusterfs.EndpointsName, Path: s.Glusterfs.Path}
	case "flocker":
		p.Flocker = s.Flocker
	case "rbd":
		p.RBD = &corev1.RBDVolumeSource{CephMonitors: s.RBD.CephMonitors, RBDImage: s.RBD.RBDImage}
	case "quobyte":
		p.Quobyte = s.Quobyte
	case "cephfs":
		p.CephFS = &corev1.CephFSVolumeSource{Monitors: s.CephFS.Monitors}
	case "iscsi":
		i := s.ISCSI
		p.ISCSI = &corev1.ISCSIVolumeSource{TargetPortal: i.TargetPortal, IQN: i.IQN, Lun: i.Lun, DiscoveryCHAPAuth: i.DiscoveryCHAPAuth,
			SessionCHAPAuth: i.SessionCHAPAuth, SecretRef: local(i.SecretRef), InitiatorName: i.InitiatorName}
	case "cinder":
		p.Cinder = &corev1.CinderVolumeSource{VolumeID: s.Cinder.VolumeID, SecretRef: local(s.Cinder.SecretRef)}
	case "fc":
		p.FC = s.FC
	case "flexVolume":
		p.FlexVolume = &corev1.FlexVolumeSource{Driver: s.FlexVolume.Driver, Options: s.FlexVolume.Options}
	case "azureFile":
		p.AzureFile = &corev1.AzureFileVolumeSource{SecretName: s.AzureFile.SecretName, ShareName: s.AzureFile.ShareName}
	case "vsphereVolume":
		p.VsphereVolume = s.VsphereVolume
	case "photonPersistentDisk":
		p.PhotonPersistentDisk = s.PhotonPersistentDisk
	case "portworxVolume":
		p.PortworxVolume = s.PortworxVolume
	case "azureDisk":
		p.AzureDisk = s.AzureDisk
	case "scaleIO":
		p.ScaleIO = &corev1.ScaleIOVolumeSource{Gateway: s.ScaleIO.Gateway, System: s.ScaleIO.System, VolumeName: s.ScaleIO.VolumeName}
	case "storageos":
		o := &corev1.StorageOSVolumeSource{VolumeName: s.StorageOS.VolumeName, VolumeNamespace: s.StorageOS.VolumeNamespace}
		if s.StorageOS.SecretRef != nil {
			o.SecretRef = &corev1.LocalObjectReference{Name: s.StorageOS.SecretRef.Name}
		}
		p.StorageOS = o
	}
	return p
}
