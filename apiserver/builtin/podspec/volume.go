package podspec

import (
	"cmp"
	"path"
	"strings"

	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumeType is one way to fill a volume. forbid is the field named when the
// volume has a type already, at the one its errors are found in; both are the
// name of the type but for a few slips that clients have seen for years.
type volumeType struct {
	name, forbid, at string
	present          func(s *v1.VolumeSource) bool
	check            func(v *validator, s *v1.VolumeSource, at *field.Path)
}

// fields makes a type that only needs some texts to be there.
func fields[T any](name string, get func(*v1.VolumeSource) *T, texts func(*T) []string) volumeType {
	return volumeType{name: name, present: func(s *v1.VolumeSource) bool { return get(s) != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			list := texts(get(s))
			for i := 0; i < len(list); i += 2 {
				v.need(at.Child(list[i]), list[i+1])
			}
		}}
}

// volumeTypes are in the order in which the API looks for them.
var volumeTypes = []volumeType{
	{name: "emptyDir", present: func(s *v1.VolumeSource) bool { return s.EmptyDir != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			if s.EmptyDir.SizeLimit != nil && negative(*s.EmptyDir.SizeLimit) {
				v.forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
			}
		}},
	{name: "hostPath", present: func(s *v1.VolumeSource) bool { return s.HostPath != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) { v.checkHostPath(s.HostPath, at) }},
	{name: "gitRepo", present: func(s *v1.VolumeSource) bool { return s.GitRepo != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			v.need(at.Child("repository"), s.GitRepo.Repository)
			v.descending(s.GitRepo.Directory, at.Child("directory"))
		}},
	{name: "gcePersistentDisk", at: "persistentDisk", present: func(s *v1.VolumeSource) bool { return s.GCEPersistentDisk != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			v.need(at.Child("pdName"), s.GCEPersistentDisk.PDName)
			v.checkPartition(s.GCEPersistentDisk.Partition, at)
		}},
	{name: "awsElasticBlockStore", present: func(s *v1.VolumeSource) bool { return s.AWSElasticBlockStore != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			v.need(at.Child("volumeID"), s.AWSElasticBlockStore.VolumeID)
			v.checkPartition(s.AWSElasticBlockStore.Partition, at)
		}},
	{name: "secret", present: func(s *v1.VolumeSource) bool { return s.Secret != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			v.need(at.Child("secretName"), s.Secret.SecretName)
			v.checkMode(s.Secret.DefaultMode, at.Child("defaultMode"))
			v.checkItems(s.Secret.Items, at.Child("items"))
		}},
	{name: "nfs", present: func(s *v1.VolumeSource) bool { return s.NFS != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			v.need(at.Child("server"), s.NFS.Server)
			v.need(at.Child("path"), s.NFS.Path)
			if !path.IsAbs(s.NFS.Path) {
				v.invalid(at.Child("path"), s.NFS.Path, "must be an absolute path")
			}
		}},
	{name: "iscsi", present: func(s *v1.VolumeSource) bool { return s.ISCSI != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) { v.checkISCSI(s.ISCSI, at) }},
	fields("glusterfs", func(s *v1.VolumeSource) *v1.GlusterfsVolumeSource { return s.Glusterfs },
		func(s *v1.GlusterfsVolumeSource) []string {
			return []string{"endpoints", s.EndpointsName, "path", s.Path}
		}),
	{name: "flocker", present: func(s *v1.VolumeSource) bool { return s.Flocker != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) { v.checkFlocker(s.Flocker, at) }},
	fields("persistentVolumeClaim", func(s *v1.VolumeSource) *v1.PersistentVolumeClaimVolumeSource { return s.PersistentVolumeClaim },
		func(s *v1.PersistentVolumeClaimVolumeSource) []string { return []string{"claimName", s.ClaimName} }),
	{name: "rbd", present: func(s *v1.VolumeSource) bool { return s.RBD != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			if len(s.RBD.CephMonitors) == 0 {
				v.required(at.Child("monitors"), "")
			}
			v.need(at.Child("image"), s.RBD.RBDImage)
		}},
	{name: "cinder", present: func(s *v1.VolumeSource) bool { return s.Cinder != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			v.need(at.Child("volumeID"), s.Cinder.VolumeID)
			v.checkSecretRef(s.Cinder.SecretRef, at.Child("secretRef", "name"))
		}},
	{name: "cephFS", at: "cephfs", present: func(s *v1.VolumeSource) bool { return s.CephFS != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			if len(s.CephFS.Monitors) == 0 {
				v.required(at.Child("monitors"), "")
			}
		}},
	{name: "quobyte", present: func(s *v1.VolumeSource) bool { return s.Quobyte != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) { v.checkQuobyte(s.Quobyte, at) }},
	{name: "downwardAPI", forbid: "downwarAPI", present: func(s *v1.VolumeSource) bool { return s.DownwardAPI != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			v.checkMode(s.DownwardAPI.DefaultMode, at.Child("defaultMode"))
			for i := range s.DownwardAPI.Items {
				v.checkDownwardFile(&s.DownwardAPI.Items[i], at)
			}
		}},
	{name: "fc", present: func(s *v1.VolumeSource) bool { return s.FC != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) { v.checkFC(s.FC, at) }},
	{name: "flexVolume", present: func(s *v1.VolumeSource) bool { return s.FlexVolume != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) { v.checkFlex(s.FlexVolume, at) }},
	{name: "configMap", present: func(s *v1.VolumeSource) bool { return s.ConfigMap != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			v.need(at.Child("name"), s.ConfigMap.Name)
			v.checkMode(s.ConfigMap.DefaultMode, at.Child("defaultMode"))
			v.checkItems(s.ConfigMap.Items, at.Child("items"))
		}},
	fields("azureFile", func(s *v1.VolumeSource) *v1.AzureFileVolumeSource { return s.AzureFile },
		func(s *v1.AzureFileVolumeSource) []string {
			return []string{"secretName", s.SecretName, "shareName", s.ShareName}
		}),
	fields("vsphereVolume", func(s *v1.VolumeSource) *v1.VsphereVirtualDiskVolumeSource { return s.VsphereVolume },
		func(s *v1.VsphereVirtualDiskVolumeSource) []string { return []string{"volumePath", s.VolumePath} }),
	fields("photonPersistentDisk", func(s *v1.VolumeSource) *v1.PhotonPersistentDiskVolumeSource { return s.PhotonPersistentDisk },
		func(s *v1.PhotonPersistentDiskVolumeSource) []string { return []string{"pdID", s.PdID} }),
	fields("portworxVolume", func(s *v1.VolumeSource) *v1.PortworxVolumeSource { return s.PortworxVolume },
		func(s *v1.PortworxVolumeSource) []string { return []string{"volumeID", s.VolumeID} }),
	{name: "azureDisk", present: func(s *v1.VolumeSource) bool { return s.AzureDisk != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) { v.checkAzureDisk(s.AzureDisk, at) }},
	{name: "storageos", present: func(s *v1.VolumeSource) bool { return s.StorageOS != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			if v.need(at.Child("volumeName"), s.StorageOS.VolumeName) {
				v.label(at.Child("volumeName"), s.StorageOS.VolumeName)
			}
			if s.StorageOS.VolumeNamespace != "" {
				v.label(at.Child("volumeNamespace"), s.StorageOS.VolumeNamespace)
			}
			v.checkSecretRef(s.StorageOS.SecretRef, at.Child("secretRef", "name"))
		}},
	{name: "projected", present: func(s *v1.VolumeSource) bool { return s.Projected != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) { v.checkProjected(s.Projected, at) }},
	fields("scaleIO", func(s *v1.VolumeSource) *v1.ScaleIOVolumeSource { return s.ScaleIO },
		func(s *v1.ScaleIOVolumeSource) []string {
			return []string{"gateway", s.Gateway, "system", s.System, "volumeName", s.VolumeName}
		}),
	{name: "csi", present: func(s *v1.VolumeSource) bool { return s.CSI != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) { v.checkCSI(s.CSI, at) }},
	{name: "ephemeral", present: func(s *v1.VolumeSource) bool { return s.Ephemeral != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			v.checkEphemeralVolume(s.Ephemeral, at.Child("volumeClaimTemplate"))
		}},
	{name: "image", present: func(s *v1.VolumeSource) bool { return s.Image != nil },
		check: func(v *validator, s *v1.VolumeSource, at *field.Path) {
			if v.opts.Pod {
				v.need(at.Child("reference"), s.Image.Reference)
			}
			v.checkPullPolicy(s.Image.PullPolicy, at.Child("pullPolicy"))
		}},
}

// checkVolumes also notes which volumes containers can mount: those without
// errors.
func (v *validator) checkVolumes(at *field.Path) {
	v.volumes = make(map[string]*v1.VolumeSource)
	generated := make(map[string]bool) // claims made for ephemeral volumes
	for i := range v.spec.Volumes {
		if volume := &v.spec.Volumes[i]; volume.Ephemeral != nil && v.meta != nil && v.meta.Name != "" {
			generated[v.meta.Name+"-"+volume.Name] = true
		}
	}
	for i := range v.spec.Volumes {
		volume, item, before := &v.spec.Volumes[i], at.Index(i), len(v.errs)
		v.checkVolume(volume, item)
		if v.need(item.Child("name"), volume.Name) {
			v.label(item.Child("name"), volume.Name)
		}
		if v.volumes[volume.Name] != nil {
			v.add(field.Duplicate(item.Child("name"), volume.Name))
		}
		if len(v.errs) == before {
			v.volumes[volume.Name] = &volume.VolumeSource
		}
		if claim := volume.PersistentVolumeClaim; claim != nil && generated[claim.ClaimName] {
			v.invalid(item.Child("persistentVolumeClaim", "claimName"), claim.ClaimName, "must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

func (v *validator) checkVolume(volume *v1.Volume, at *field.Path) {
	s, found := &volume.VolumeSource, false
	for _, t := range volumeTypes {
		if !t.present(s) {
			continue
		}
		if found {
			v.forbidden(at.Child(cmp.Or(t.forbid, t.name)), "may not specify more than 1 volume type")
			continue
		}
		found = true
		t.check(v, s, at.Child(cmp.Or(t.at, t.name)))
	}
	if !found {
		v.required(at, "must specify a volume type")
	}
	if s.ISCSI != nil && s.ISCSI.InitiatorName != nil && len(volume.Name+":"+s.ISCSI.TargetPortal) > 64 {
		v.invalid(at.Child("name"), volume.Name, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
	if s.Ephemeral != nil && v.meta != nil && v.meta.Name != "" && volume.Name != "" {
		claim := v.meta.Name + "-" + volume.Name
		for _, msg := range apivalidation.NameIsDNSSubdomain(claim, false) {
			v.invalid(at.Child("name"), volume.Name, "PVC name \""+claim+"\": "+msg)
		}
	}
}

// checkMode demands permission bits.
func (v *validator) checkMode(mode *int32, at *field.Path) {
	if mode != nil && (*mode > 0o777 || *mode < 0) {
		v.invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

func (v *validator) checkItems(items []v1.KeyToPath, at *field.Path) {
	for i := range items {
		v.checkKeyToPath(&items[i], at.Index(i))
	}
}

func (v *validator) checkKeyToPath(item *v1.KeyToPath, at *field.Path) {
	v.need(at.Child("key"), item.Key)
	v.need(at.Child("path"), item.Path)
	v.fileInVolume(item.Path, at.Child("path"))
	v.checkMode(item.Mode, at.Child("mode"))
}

func (v *validator) checkDownwardFile(file *v1.DownwardAPIVolumeFile, at *field.Path) {
	v.need(at.Child("path"), file.Path)
	v.fileInVolume(file.Path, at.Child("path"))
	switch {
	case file.FieldRef != nil:
		v.checkFieldRef(file.FieldRef, fileFields, at.Child("fieldRef"))
		if file.ResourceFieldRef != nil {
			v.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case file.ResourceFieldRef != nil:
		v.checkResourceRef(file.ResourceFieldRef, at.Child("resourceFieldRef"), true)
	default:
		v.required(at, "one of fieldRef and resourceFieldRef is required")
	}
	v.checkMode(file.Mode, at.Child("mode"))
}

func (v *validator) checkHostPath(s *v1.HostPathVolumeSource, at *field.Path) {
	if !v.need(at.Child("path"), s.Path) {
		return
	}
	v.noBacksteps(s.Path, at.Child("path"))
	oneOf(v, at.Child("type"), *s.Type, v1.HostPathUnset, v1.HostPathBlockDev, v1.HostPathCharDev, v1.HostPathDirectory,
		v1.HostPathDirectoryOrCreate, v1.HostPathFile, v1.HostPathFileOrCreate, v1.HostPathSocket)
}

func (v *validator) checkPartition(n int32, at *field.Path) {
	if n < 0 || n > 255 {
		v.invalid(at.Child("partition"), n, validation.InclusiveRangeError(1, 255))
	}
}

func (v *validator) checkSecretRef(ref *v1.LocalObjectReference, at *field.Path) {
	if ref != nil {
		v.need(at, ref.Name)
	}
}

func (v *validator) checkCSI(s *v1.CSIVolumeSource, at *field.Path) {
	driver := at.Child("driver")
	if v.need(driver, s.Driver) {
		if len(s.Driver) > 63 {
			v.add(field.TooLong(driver, "", 63))
		}
		v.messages(driver, s.Driver, validation.IsDNS1123Subdomain(strings.ToLower(s.Driver)))
	}
	if ref := s.NodePublishSecretRef; ref != nil && v.need(at.Child("nodePublishSecretRef", "name"), ref.Name) {
		v.subdomain(at.Child("name"), ref.Name)
	}
}

func (v *validator) checkEphemeralVolume(s *v1.EphemeralVolumeSource, at *field.Path) {
	t := s.VolumeClaimTemplate
	if t == nil {
		v.required(at, "")
		return
	}
	meta := withoutFields(t.ObjectMeta)
	v.add(ValidateTemplateMeta(&meta, at.Child("metadata"))...)
	v.add(ValidateClaimSpec(&t.Spec, nil, at.Child("spec"))...)
}

// ValidateTemplateMeta checks the metadata that claims get which are made for a
// pod: annotations and labels, and nothing else.
func ValidateTemplateMeta(meta *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	v := &validator{}
	v.add(apivalidation.ValidateAnnotations(meta.Annotations, at.Child("annotations"))...)
	v.add(metavalidation.ValidateLabels(meta.Labels, at.Child("labels"))...)
	v.onlyFields(*meta, map[string]bool{"Annotations": true, "Labels": true}, at, "cannot be set")
	return v.errs
}

// withoutFields leaves out what the server itself keeps in metadata.
func withoutFields(meta metav1.ObjectMeta) metav1.ObjectMeta {
	meta.ManagedFields = nil
	return meta
}
