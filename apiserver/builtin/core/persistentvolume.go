package core

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func persistentVolumes() *resource.Resource {
	type volume = corev1.PersistentVolume
	spec, status := corev1.PersistentVolumeSpec{}, corev1.PersistentVolumeStatus{}
	return resource.Define[corev1.PersistentVolumeList](resource.Definition[volume]{
		Version: "v1", Kind: "PersistentVolume", Plural: "persistentvolumes", ShortNames: []string{"pv"}, ClusterScoped: true,
		AnswersDeleted: true,
		Default:        defaultVolume,
		Prepare:        prepareVolume,
		Validate:       validateVolume,
		Warn:           warnVolume,
		Columns: []resource.Column[*volume]{
			resource.NameColumn[*volume](),
			table.Text("Capacity", table.Doc(spec, "capacity"), func(v *volume) string { return storageText(v.Spec.Capacity) }),
			table.Text("Access Modes", table.Doc(spec, "accessModes"), func(v *volume) string { return accessModes(v.Spec.AccessModes) }),
			table.Text("Reclaim Policy", table.Doc(spec, "persistentVolumeReclaimPolicy"), func(v *volume) string { return string(v.Spec.PersistentVolumeReclaimPolicy) }),
			table.Text("Status", table.Doc(status, "phase"), func(v *volume) string { return phase(v.DeletionTimestamp, string(v.Status.Phase)) }),
			table.Text("Claim", table.Doc(spec, "claimRef"), claimColumn),
			table.Text("StorageClass", "StorageClass of the pv", func(v *volume) string {
				return table.Or(v.Annotations[corev1.BetaStorageClassAnnotation], v.Spec.StorageClassName)
			}),
			table.Text("VolumeAttributesClass", "VolumeAttributesClass of the pv", func(v *volume) string { return ptr.Deref(v.Spec.VolumeAttributesClassName, "<unset>") }),
			table.Text("Reason", table.Doc(status, "reason"), func(v *volume) string { return v.Status.Reason }),
			resource.AgeColumn[*volume](),
			table.Wide(table.Text("VolumeMode", table.Doc(spec, "volumeMode"), func(v *volume) string { return string(ptr.Deref(v.Spec.VolumeMode, "<unset>")) })),
		},
		Subresources: []resource.Subresource[volume]{{
			Name: "status", View: true,
			Prepare: prepareVolumeStatus,
		}},
	})
}

func defaultVolume(v *corev1.PersistentVolume) {
	if v.Status.Phase == "" {
		v.Status.Phase = corev1.VolumePending
	}
	if v.Spec.PersistentVolumeReclaimPolicy == "" {
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	}
	if v.Spec.VolumeMode == nil {
		v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	}
	DefaultVolumeSpec(&v.Spec)
}

func prepareVolume(v, old *corev1.PersistentVolume) {
	if old != nil {
		v.Status = *old.Status.DeepCopy()
		return
	}
	v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: ptr.To(metav1.Now())}
}

// prepareVolumeStatus notes when the phase changed, unless the client did.
func prepareVolumeStatus(v, old *corev1.PersistentVolume) {
	v.Spec = *old.Spec.DeepCopy()
	if v.Status.Phase == old.Status.Phase && v.Status.LastPhaseTransitionTime == nil {
		v.Status.LastPhaseTransitionTime = old.Status.LastPhaseTransitionTime
	}
	if v.Status.Phase != old.Status.Phase && (v.Status.LastPhaseTransitionTime == nil || v.Status.LastPhaseTransitionTime.Equal(old.Status.LastPhaseTransitionTime)) {
		v.Status.LastPhaseTransitionTime = ptr.To(metav1.Now())
	}
}

func validateVolume(v, old *corev1.PersistentVolume) field.ErrorList {
	at := field.NewPath("spec")
	errs := validateAccessModes(v.Spec.AccessModes, at.Child("accessModes"))
	errs = append(errs, validateVolumeCapacity(v.Spec.Capacity, at.Child("capacity"))...)
	errs = append(errs, check.Supported(v.Spec.PersistentVolumeReclaimPolicy, at.Child("persistentVolumeReclaimPolicy"),
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	if a := v.Spec.NodeAffinity; a != nil {
		if a.Required == nil {
			errs = append(errs, field.Required(at.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			var before *corev1.NodeSelector
			if old != nil && old.Spec.NodeAffinity != nil {
				before = old.Spec.NodeAffinity.Required
			}
			errs = append(errs, podspec.ValidateNodeSelector(a.Required, before, at.Child("nodeAffinity", "required"))...)
		}
	}
	errs = append(errs, validateVolumeSource(&v.Spec, at)...)
	errs = append(errs, validateMountAnnotation(v)...)
	if v.Spec.StorageClassName != "" {
		errs = append(errs, check.Subdomain(v.Spec.StorageClassName, at.Child("storageClassName"))...)
	}
	if m := v.Spec.VolumeMode; m != nil {
		errs = append(errs, check.Supported(*m, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	if class := v.Spec.VolumeAttributesClassName; class != nil {
		errs = append(errs, validateAttributesClassName(*class, v.Spec.CSI != nil, at)...)
	}
	if old != nil {
		errs = append(errs, validateVolumeUpdate(v, old)...)
	}
	return errs
}

// mountable are the sources for which the annotation of mount options is read.
var mountable = []string{"gcePersistentDisk", "awsElasticBlockStore", "glusterfs", "nfs", "rbd", "quobyte", "iscsi", "cinder", "cephfs",
	"azureFile", "vsphereVolume", "azureDisk", "photonPersistentDisk"}

func validateMountAnnotation(v *corev1.PersistentVolume) field.ErrorList {
	_, annotated := v.Annotations[corev1.MountOptionAnnotation]
	read := slices.ContainsFunc(volumeSources(&v.Spec.PersistentVolumeSource), func(name string) bool { return slices.Contains(mountable, name) })
	if !annotated || read {
		return nil
	}
	at := field.NewPath("metadata", "annotations", corev1.MountOptionAnnotation)
	return field.ErrorList{field.Forbidden(at, "may not specify mount options for this volume type")}
}

func validateAttributesClassName(class string, csi bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	name := at.Child("volumeAttributesClassName")
	if class == "" {
		errs = append(errs, field.Required(name, "an empty string is disallowed"))
	} else {
		errs = append(errs, check.Subdomain(class, name)...)
	}
	if !csi {
		errs = append(errs, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
	return errs
}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	for _, m := range modes {
		errs = append(errs, check.Supported(m, at, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	}
	alone := slices.Contains(modes, corev1.ReadWriteOncePod)
	shared := slices.ContainsFunc(modes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadOnlyMany || m == corev1.ReadWriteMany || m == corev1.ReadWriteOnce
	})
	if alone && shared {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func validateVolumeCapacity(c corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(c) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if _, ok := c[corev1.ResourceStorage]; !ok || len(c) > 1 {
		errs = append(errs, field.NotSupported(at, c, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for name, q := range c {
		errs = append(errs, validateStored(q, at.Key(string(name)))...)
		if q.Sign() <= 0 {
			errs = append(errs, field.Invalid(at.Key(string(name)), q.String(), "must be greater than zero"))
		}
	}
	return errs
}

func validateVolumePath(p string, at *field.Path) field.ErrorList {
	if p == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	if slices.Contains(strings.Split(p, "/"), "..") {
		return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
	}
	return nil
}

func validateNFS(n *corev1.NFSVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n.Server == "" {
		errs = append(errs, field.Required(at.Child("server"), ""))
	}
	if n.Path == "" {
		errs = append(errs, field.Required(at.Child("path"), ""))
	}
	if !path.IsAbs(n.Path) {
		errs = append(errs, field.Invalid(at.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

func validateCSIVolume(c *corev1.CSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	errs := ValidateDriverName(c.Driver, at.Child("driver"))
	if c.VolumeHandle == "" {
		errs = append(errs, field.Required(at.Child("volumeHandle"), ""))
	}
	for _, r := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", c.ControllerPublishSecretRef}, {"controllerExpandSecretRef", c.ControllerExpandSecretRef},
		{"nodePublishSecretRef", c.NodePublishSecretRef}, {"nodeExpandSecretRef", c.NodeExpandSecretRef},
	} {
		if r.ref != nil {
			errs = append(errs, validateSecretRef(r.ref, at.Child(r.name))...)
		}
	}
	return errs
}

// ValidateDriverName checks the name of a storage driver, in which case does not
// matter.
func ValidateDriverName(name string, at *field.Path) field.ErrorList {
	const longest = 63
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(name) > longest {
		errs = append(errs, field.TooLong(at, "", longest))
	}
	for _, wrong := range validation.NameIsDNSSubdomain(lower(name), false) {
		errs = append(errs, field.Invalid(at, name, wrong))
	}
	return errs
}

func validateSecretRef(r *corev1.SecretReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, check.Subdomain(r.Name, at.Child("name"))...)
	}
	if r.Namespace == "" {
		return append(errs, field.Required(at.Child("namespace"), ""))
	}
	return append(errs, check.Label(r.Namespace, at.Child("namespace"))...)
}

// validateVolumeUpdate keeps the source; a secret for growing may be added.
func validateVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	var errs field.ErrorList
	is, was := v.Spec.PersistentVolumeSource.DeepCopy(), &old.Spec.PersistentVolumeSource
	if was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil && is.CSI != nil {
		is.CSI.ControllerExpandSecretRef = nil
	}
	if !equality.Semantic.DeepEqual(is, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"), fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(podspec.Untagged(was), podspec.Untagged(is)))))
	}
	errs = append(errs, validation.ValidateImmutableField(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if a := old.Spec.NodeAffinity; a != nil && !butStableLabels.DeepEqual(v.Spec.NodeAffinity, a) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), podspec.Untagged(v.Spec.NodeAffinity), "field is immutable, except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// stableLabels are the labels of nodes that took the place of beta ones.
var stableLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	"beta.kubernetes.io/os":             corev1.LabelOSStable,
	"beta.kubernetes.io/arch":           corev1.LabelArchStable,
	corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
}

// butStableLabels is equality that lets a beta label, on the right, become its
// stable one.
var butStableLabels = func() conversion.Equalities {
	equal := equality.Semantic.Copy()
	if err := equal.AddFunc(func(is, was corev1.NodeSelectorRequirement) bool {
		if stableLabels[was.Key] == is.Key {
			was.Key = is.Key
		}
		return equality.Semantic.DeepEqual(is, was)
	}); err != nil {
		panic(err) // of the form of the function alone
	}
	return equal
}()

// deprecatedSources are types of volumes whose drivers are gone, with the
// release that warned first and the one without.
var deprecatedSources = []struct {
	name, since, gone string
	used              func(*corev1.PersistentVolumeSource) bool
}{
	{"cephfs", "v1.28", "v1.31", func(s *corev1.PersistentVolumeSource) bool { return s.CephFS != nil }},
	{"photonPersistentDisk", "v1.11", "v1.16", func(s *corev1.PersistentVolumeSource) bool { return s.PhotonPersistentDisk != nil }},
	{"scaleIO", "v1.16", "v1.22", func(s *corev1.PersistentVolumeSource) bool { return s.ScaleIO != nil }},
	{"storageOS", "v1.22", "v1.25", func(s *corev1.PersistentVolumeSource) bool { return s.StorageOS != nil }},
	{"glusterfs", "v1.25", "v1.26", func(s *corev1.PersistentVolumeSource) bool { return s.Glusterfs != nil }},
	{"rbd", "v1.28", "v1.31", func(s *corev1.PersistentVolumeSource) bool { return s.RBD != nil }},
}

func warnVolume(v, _ *corev1.PersistentVolume) []string {
	warnings := warnClassAnnotation(v.Annotations)
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok {
		warnings = append(warnings, fmt.Sprintf("metadata.annotations[%s]: deprecated since v1.31; use \"mountOptions\" attribute instead", corev1.MountOptionAnnotation))
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		warnings = append(warnings, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		warnings = append(warnings, podspec.WarnNodeSelector(a.Required, field.NewPath("spec", "nodeAffinity", "required"))...)
	}
	for _, d := range deprecatedSources {
		if d.used(&v.Spec.PersistentVolumeSource) {
			warnings = append(warnings, fmt.Sprintf("spec.%s: deprecated in %s, non-functional in %s+", d.name, d.since, d.gone))
		}
	}
	return warnings
}

// warnClassAnnotation is for volumes and claims that name their class as they
// did before there was a field for it.
func warnClassAnnotation(annotations map[string]string) []string {
	if _, ok := annotations[corev1.BetaStorageClassAnnotation]; !ok {
		return nil
	}
	return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated since v1.8; use \"storageClassName\" attribute instead", corev1.BetaStorageClassAnnotation)}
}

func storageText(list corev1.ResourceList) string {
	q := list[corev1.ResourceStorage]
	return q.String()
}

func phase(deleted *metav1.Time, phase string) string {
	if deleted != nil {
		return "Terminating"
	}
	return phase
}

func claimColumn(v *corev1.PersistentVolume) string {
	if v.Spec.ClaimRef == nil {
		return ""
	}
	return v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
}

// accessModes are the short names people know the modes by.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		name string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.name)
		}
	}
	return strings.Join(short, ",")
}
