package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func statefulSets() *resource.Resource {
	return resource.Define[appsv1.StatefulSetList](resource.Definition[appsv1.StatefulSet]{
		Group: "apps", Version: "v1", Kind: "StatefulSet", Plural: "statefulsets",
		ShortNames: []string{"sts"}, Categories: []string{"all"},
		Name:    apivalidation.NameIsDNSLabel,
		Default: defaultStatefulSet,
		Prepare: func(obj, old *appsv1.StatefulSet) {
			podspec.DropDisabled(&obj.Spec.Template.Spec)
			obj.Status = appsv1.StatefulSetStatus{}
			if old != nil {
				obj.Status = old.Status
			}
			// Off by default in this version, and so not kept.
			if r := obj.Spec.UpdateStrategy.RollingUpdate; r != nil && !hasMaxUnavailable(old) {
				r.MaxUnavailable = nil
			}
		},
		Validate:   validateStatefulSet,
		Warn:       warnStatefulSet,
		Generation: func(obj, old *appsv1.StatefulSet) bool { return changed(obj.Spec, old.Spec) },
		Columns:    statefulSetColumns(),
		Subresources: []resource.Subresource[appsv1.StatefulSet]{
			{Name: "scale", Kind: scaleKind, Scale: &resource.Scale[*appsv1.StatefulSet]{
				Replicas:    func(s *appsv1.StatefulSet) *int32 { return s.Spec.Replicas },
				Status:      func(s *appsv1.StatefulSet) int32 { return s.Status.Replicas },
				Selector:    func(s *appsv1.StatefulSet) string { return selectorString(s.Spec.Selector) },
				SetReplicas: func(s *appsv1.StatefulSet, n int32) { s.Spec.Replicas = &n },
			}},
			{Name: "status", View: true,
				Prepare:  func(obj, old *appsv1.StatefulSet) { obj.Spec = old.Spec },
				Validate: validateStatefulSetStatus,
			},
		},
	})
}

func hasMaxUnavailable(set *appsv1.StatefulSet) bool {
	return set != nil && set.Spec.UpdateStrategy.RollingUpdate != nil && set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable != nil
}

func defaultStatefulSet(set *appsv1.StatefulSet) {
	spec := &set.Spec
	podspec.DefaultTemplate(&spec.Template)
	if spec.PodManagementPolicy == "" {
		spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	strategy := &spec.UpdateStrategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		podspec.SetDefault(&strategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if strategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && strategy.RollingUpdate != nil {
		podspec.SetDefault(&strategy.RollingUpdate.Partition, 0)
	}
	podspec.SetDefault(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	for _, p := range []*appsv1.PersistentVolumeClaimRetentionPolicyType{
		&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, &spec.PersistentVolumeClaimRetentionPolicy.WhenScaled} {
		if *p == "" {
			*p = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
		}
	}
	podspec.SetDefault(&spec.Replicas, 1)
	podspec.SetDefault(&spec.RevisionHistoryLimit, 10)
	for i := range spec.VolumeClaimTemplates {
		claim := &spec.VolumeClaimTemplates[i]
		claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
		if claim.Status.Phase == "" {
			claim.Status.Phase = v1.ClaimPending
		}
		podspec.DefaultClaimSpec(&claim.Spec)
	}
}

func validateStatefulSet(obj, old *appsv1.StatefulSet) field.ErrorList {
	opts := podspec.Options{}
	if old == nil {
		errs := validateStatefulSetSpec(&obj.Spec, opts, true)
		return errs
	}
	opts = podspec.OptionsFor(&old.Spec.Template)
	// A template that was stored under older rules stays valid.
	opts.SkipTemplate = len(validateStatefulSetSpec(&old.Spec, opts, false)) > 0
	errs := validateStatefulSetSpec(&obj.Spec, opts, false)
	same := old.Spec
	same.Replicas, same.Template, same.UpdateStrategy = obj.Spec.Replicas, obj.Spec.Template, obj.Spec.UpdateStrategy
	same.MinReadySeconds, same.Ordinals, same.RevisionHistoryLimit = obj.Spec.MinReadySeconds, obj.Spec.Ordinals, obj.Spec.RevisionHistoryLimit
	same.PersistentVolumeClaimRetentionPolicy = obj.Spec.PersistentVolumeClaimRetentionPolicy
	if changed(obj.Spec, same) {
		errs = append(errs, field.Forbidden(specPath, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

// validateStatefulSetSpec checks a spec; immutable parts only if it is new.
func validateStatefulSetSpec(spec *appsv1.StatefulSetSpec, opts podspec.Options, isNew bool) field.ErrorList {
	var errs field.ErrorList
	switch spec.PodManagementPolicy {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(specPath.Child("podManagementPolicy"), spec.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'"))
	}
	errs = append(errs, validateStatefulSetStrategy(&spec.UpdateStrategy, specPath.Child("updateStrategy"))...)
	errs = append(errs, validateRetention(spec.PersistentVolumeClaimRetentionPolicy, specPath.Child("persistentVolumeClaimRetentionPolicy"))...)
	if isNew {
		for i := range spec.VolumeClaimTemplates {
			errs = append(errs, podspec.ValidateClaimSpec(&spec.VolumeClaimTemplates[i].Spec, nil, specPath.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
		}
	}
	errs = append(errs, notNegative(specPath,
		count{"replicas", int64(*spec.Replicas)},
		count{"minReadySeconds", int64(spec.MinReadySeconds)})...)
	if spec.Ordinals != nil {
		errs = append(errs, notNegative(specPath, count{"ordinals.start", int64(spec.Ordinals.Start)})...)
	}
	if isNew && spec.ServiceName != "" {
		for _, msg := range validation.IsDNS1123Label(spec.ServiceName) {
			errs = append(errs, field.Invalid(specPath.Child("serviceName"), spec.ServiceName, msg))
		}
	}
	errs = append(errs, validateSelector(spec.Selector, "statefulset")...)
	if selector, err := metav1.LabelSelectorAsSelector(spec.Selector); err != nil {
		errs = append(errs, field.Invalid(specPath.Child("selector"), spec.Selector, ""))
	} else {
		errs = append(errs, selects(selector, &spec.Template)...)
		errs = append(errs, validateStatefulTemplate(spec, opts)...)
	}
	return append(errs, validateForever(&spec.Template, "StatefulSet")...)
}

// validateStatefulTemplate checks the template as the controller will fill it:
// with the claims as volumes and with its own host names.
func validateStatefulTemplate(spec *appsv1.StatefulSetSpec, opts podspec.Options) field.ErrorList {
	t := spec.Template
	t.Spec.Subdomain, t.Spec.Hostname = "", ""
	claims := make(map[string]bool, len(spec.VolumeClaimTemplates))
	var volumes []v1.Volume
	for i := range spec.VolumeClaimTemplates {
		name := spec.VolumeClaimTemplates[i].Name
		if claims[name] {
			continue
		}
		claims[name] = true
		volumes = append(volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{
			PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
	}
	for _, v := range spec.Template.Spec.Volumes {
		if !claims[v.Name] {
			volumes = append(volumes, v)
		}
	}
	t.Spec.Volumes = volumes
	var errs field.ErrorList
	if !opts.SkipTemplate {
		errs = append(errs, podspec.ValidateTemplate(&t, tmplPath, opts)...)
	}
	errs = append(errs, metavalidation.ValidateLabels(t.Labels, tmplPath.Child("labels"))...)
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, tmplPath.Child("annotations"))...)
	return append(errs, podspec.ValidatePodAnnotations(t.Annotations, &t.Spec, tmplPath.Child("annotations"), opts)...)
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, path *field.Path) field.ErrorList {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(rolling, podspec.Untagged(s.RollingUpdate), "only allowed for updateStrategy 'RollingUpdate'")}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
	default:
		return field.ErrorList{field.Invalid(path, podspec.Untagged(*s), "must be 'RollingUpdate' or 'OnDelete'")}
	}
	if s.RollingUpdate == nil {
		return nil
	}
	errs := apivalidation.ValidateNonnegativeField(int64(*s.RollingUpdate.Partition), rolling.Child("partition"))
	most, path := s.RollingUpdate.MaxUnavailable, rolling.Child("maxUnavailable")
	if most == nil {
		return errs
	}
	errs = append(errs, check.CountOrPercent(*most, path)...)
	if amount(*most) == 0 {
		errs = append(errs, field.Invalid(path, *most, "cannot be 0"))
	}
	return append(errs, check.AtMostAll(*most, path)...)
}

func validateRetention(p *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(name string, v appsv1.PersistentVolumeClaimRetentionPolicyType) {
		retain, remove := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		if v != retain && v != remove {
			errs = append(errs, field.NotSupported(path.Child(name), v, []string{string(retain), string(remove)}))
		}
	}
	check("whenDeleted", p.WhenDeleted)
	check("whenScaled", p.WhenScaled)
	return errs
}

func validateStatefulSetStatus(obj, old *appsv1.StatefulSet) field.ErrorList {
	s := &obj.Status
	errs := notNegative(statusPath,
		count{"replicas", int64(s.Replicas)},
		count{"readyReplicas", int64(s.ReadyReplicas)},
		count{"currentReplicas", int64(s.CurrentReplicas)},
		count{"updatedReplicas", int64(s.UpdatedReplicas)},
		count{"availableReplicas", int64(s.AvailableReplicas)},
		count{"observedGeneration", s.ObservedGeneration},
		count{"collisionCount", deref(s.CollisionCount)})
	errs = append(errs, notAbove(statusPath, s.Replicas, "status.replicas",
		count{"readyReplicas", int64(s.ReadyReplicas)},
		count{"currentReplicas", int64(s.CurrentReplicas)},
		count{"updatedReplicas", int64(s.UpdatedReplicas)},
		count{"availableReplicas", int64(s.AvailableReplicas)})...)
	errs = append(errs, notAbove(statusPath, s.ReadyReplicas, "status.readyReplicas", count{"availableReplicas", int64(s.AvailableReplicas)})...)
	return append(errs, notDecremented(s.CollisionCount, old.Status.CollisionCount)...)
}

func warnStatefulSet(obj, old *appsv1.StatefulSet) []string {
	var warnings []string
	claims := specPath.Child("volumeClaimTemplates")
	if old == nil {
		warnings = podspec.WarnTemplate(&obj.Spec.Template, nil, tmplPath)
	} else if changed(obj.Spec, old.Spec) {
		warnings = podspec.WarnTemplate(&obj.Spec.Template, &old.Spec.Template, tmplPath)
	}
	for i := range obj.Spec.VolumeClaimTemplates {
		path := claims.Index(i)
		if old != nil {
			path = path.Child("Spec") // as the API spells it on updates
		}
		warnings = append(warnings, podspec.WarnClaimSpec(&obj.Spec.VolumeClaimTemplates[i].Spec, path)...)
	}
	if *obj.Spec.RevisionHistoryLimit < 0 {
		warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return warnings
}

func statefulSetColumns() []resource.Column[*appsv1.StatefulSet] {
	type set = *appsv1.StatefulSet
	spec := func(s set) *v1.PodSpec { return &s.Spec.Template.Spec }
	return []resource.Column[set]{
		resource.NameColumn[set](),
		table.Text("Ready", "Number of the pod with ready state", func(s set) string {
			return fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, *s.Spec.Replicas)
		}),
		resource.AgeColumn[set](),
		table.Wide(podspec.ContainersColumn(spec)),
		table.Wide(podspec.ImagesColumn(spec)),
	}
}
