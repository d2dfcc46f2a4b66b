package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
)

// Limits that keep the lists of indexes in a job's status short.
const (
	maxIndexedParallelism = 100_000
	maxFailedIndexes      = 100_000
	manyCompletions       = 100_000 // above this the next two apply
	manyParallel          = 10_000
	manyFailedIndexes     = 10_000
	maxManagedBy          = 63
)

func validateJob(obj, old *batchv1.Job) field.ErrorList {
	opts, requirePrefixed := podspec.Options{}, true
	if old != nil {
		opts = podspec.OptionsFor(&old.Spec.Template)
		opts.BadSelectorValues = opts.BadSelectorValues || metavalidation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector)
		// Jobs from before the prefixed labels existed do without.
		_, hadName := old.Spec.Template.Labels[jobNameLabel]
		_, hadUID := old.Spec.Template.Labels[controllerUIDLabel]
		requirePrefixed = hadName && hadUID
	}
	errs := validateGeneratedSelector(obj, requirePrefixed)
	errs = append(errs, validateSpecAndSelector(&obj.Spec, opts)...)
	errs = append(errs, validateLastHostname(obj)...)
	if old != nil {
		errs = append(errs, validateJobUpdate(obj, old, opts)...)
	}
	return errs
}

// validateLastHostname checks that the pod with the highest index will have a
// host name.
func validateLastHostname(j *batchv1.Job) field.ErrorList {
	if deref(j.Spec.CompletionMode) != batchv1.IndexedCompletion || deref(j.Spec.Completions) <= 0 {
		return nil
	}
	host := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)
	if len(validation.IsDNS1123Label(host)) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+host)}
}

// validateGeneratedSelector checks what generateSelector did against what the
// client had set.
func validateGeneratedSelector(j *batchv1.Job, requirePrefixed bool) field.ErrorList {
	if deref(j.Spec.ManualSelector) || j.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	name, uid := j.Name, string(j.UID)
	if uid == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	expected := labels.Set{legacyControllerUIDLabel: uid, legacyJobNameLabel: name}
	order := []string{legacyControllerUIDLabel, legacyJobNameLabel}
	if requirePrefixed {
		expected[controllerUIDLabel], expected[jobNameLabel] = uid, name
		order = append(order, controllerUIDLabel, jobNameLabel)
	}
	for _, key := range order {
		path := specPath.Child("template", "metadata", "labels").Key(key)
		value, ok := j.Spec.Template.Labels[key]
		switch {
		case !ok:
			errs = append(errs, field.Required(path, fmt.Sprintf("must be '%s'", expected[key])))
		case value != expected[key]:
			errs = append(errs, field.Invalid(path, j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", expected[key])))
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(expected) {
		errs = append(errs, field.Invalid(specPath.Child("selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

func validateSpecAndSelector(s *batchv1.JobSpec, opts podspec.Options) field.ErrorList {
	errs := validateJobSpec(s, specPath, opts)
	path := specPath.Child("selector")
	if s.Selector == nil {
		errs = append(errs, field.Required(path, ""))
	} else {
		errs = append(errs, metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: opts.BadSelectorValues}, path)...)
	}
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(specPath.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	return errs
}

// validateJobSpec checks the spec of a job or of a template of jobs.
func validateJobSpec(s *batchv1.JobSpec, path *field.Path, opts podspec.Options) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, notNegative(s.Parallelism, path.Child("parallelism"))...)
	errs = append(errs, notNegative(s.Completions, path.Child("completions"))...)
	errs = append(errs, notNegative(s.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	errs = append(errs, notNegative(s.BackoffLimit, path.Child("backoffLimit"))...)
	errs = append(errs, notNegative(s.TTLSecondsAfterFinished, path.Child("ttlSecondsAfterFinished"))...)
	errs = append(errs, notNegative(s.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	errs = append(errs, notNegative(s.MaxFailedIndexes, path.Child("maxFailedIndexes"))...)
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if s.ManagedBy != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(path.Child("managedBy"), *s.ManagedBy)...)
		if len(*s.ManagedBy) > maxManagedBy {
			errs = append(errs, field.TooLong(path.Child("managedBy"), "", maxManagedBy))
		}
	}
	errs = append(errs, validateCompletionMode(s, path)...)
	if s.PodFailurePolicy != nil {
		errs = append(errs, validatePodFailurePolicy(s, path.Child("podFailurePolicy", "rules"))...)
	}
	if s.SuccessPolicy != nil {
		errs = append(errs, validateSuccessPolicy(s, path.Child("successPolicy"))...)
	}
	errs = append(errs, validateReplacement(s, path.Child("podReplacementPolicy"))...)
	errs = append(errs, podspec.ValidateTemplate(&s.Template, path.Child("template"), opts)...)
	return append(errs, validateRestartPolicy(s, path.Child("template", "spec", "restartPolicy"))...)
}

func validateRestartPolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	switch policy := s.Template.Spec.RestartPolicy; {
	case policy == v1.RestartPolicyAlways || policy == "":
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q, %q", v1.RestartPolicyOnFailure, v1.RestartPolicyNever))}
	case policy != v1.RestartPolicyOnFailure && policy != v1.RestartPolicyNever:
		return field.ErrorList{field.NotSupported(path, policy, []v1.RestartPolicy{v1.RestartPolicyOnFailure, v1.RestartPolicyNever})}
	case s.PodFailurePolicy != nil && policy != v1.RestartPolicyNever:
		return field.ErrorList{field.Invalid(path, policy, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", v1.RestartPolicyNever))}
	}
	return nil
}

func validateCompletionMode(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	mode := batchv1.NonIndexedCompletion
	if s.CompletionMode != nil {
		mode = *s.CompletionMode
	}
	perIndex, mostFailed := path.Child("backoffLimitPerIndex"), path.Child("maxFailedIndexes")
	switch mode {
	case batchv1.IndexedCompletion:
		return validateIndexed(s, path)
	case batchv1.NonIndexedCompletion:
		if s.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(perIndex, *s.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if s.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(mostFailed, *s.MaxFailedIndexes, "requires indexed completion mode"))
		}
		return errs
	}
	return field.ErrorList{field.NotSupported(path.Child("completionMode"), s.CompletionMode, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion})}
}

func validateIndexed(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	parallel, failed := path.Child("parallelism"), path.Child("maxFailedIndexes")
	atMost := func(path *field.Path, n *int32, limit int32, message string) {
		if n != nil && *n > limit {
			errs = append(errs, field.Invalid(path, *n, message))
		}
	}
	if s.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), "when completion mode is Indexed"))
	}
	atMost(parallel, s.Parallelism, maxIndexedParallelism, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxIndexedParallelism))
	if s.Completions != nil {
		atMost(failed, s.MaxFailedIndexes, *s.Completions, "must be less than or equal to completions")
	}
	atMost(failed, s.MaxFailedIndexes, maxFailedIndexes, fmt.Sprintf("must be less than or equal to %d", maxFailedIndexes))
	if deref(s.Completions) <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return errs
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(failed, fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
	}
	const message = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	atMost(parallel, s.Parallelism, manyParallel, fmt.Sprintf(message, manyParallel, manyCompletions))
	atMost(failed, s.MaxFailedIndexes, manyFailedIndexes, fmt.Sprintf(message, manyFailedIndexes, manyCompletions))
	return errs
}

func validateReplacement(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if s.PodReplacementPolicy == nil {
		return nil
	}
	allowed := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
	if s.PodFailurePolicy != nil {
		allowed = allowed[:1]
	}
	return oneOf(*s.PodReplacementPolicy, path, allowed...)
}

// validateJobUpdate checks what may change in a job. The API checks the spec a
// second time on updates, and so lists its errors twice.
func validateJobUpdate(obj, old *batchv1.Job, opts podspec.Options) field.ErrorList {
	s, before := &obj.Spec, &old.Spec
	errs := validateSpecAndSelector(s, opts)
	errs = append(errs, validateCompletionsUpdate(s, before)...)
	errs = append(errs, apivalidation.ValidateImmutableField(s.Selector, before.Selector, specPath.Child("selector"))...)
	errs = append(errs, validateTemplateUpdate(obj, old)...)
	errs = append(errs, apivalidation.ValidateImmutableField(s.CompletionMode, before.CompletionMode, specPath.Child("completionMode"))...)
	errs = append(errs, podspec.Immutable(s.PodFailurePolicy, before.PodFailurePolicy, specPath.Child("podFailurePolicy"))...)
	errs = append(errs, apivalidation.ValidateImmutableField(s.BackoffLimitPerIndex, before.BackoffLimitPerIndex, specPath.Child("backoffLimitPerIndex"))...)
	errs = append(errs, apivalidation.ValidateImmutableField(s.ManagedBy, before.ManagedBy, specPath.Child("managedBy"))...)
	return append(errs, podspec.Immutable(s.SuccessPolicy, before.SuccessPolicy, specPath.Child("successPolicy"))...)
}

// validateCompletionsUpdate lets only indexed jobs be scaled, completions and
// parallelism alike.
func validateCompletionsUpdate(s, before *batchv1.JobSpec) field.ErrorList {
	path := specPath.Child("completions")
	if deref(s.CompletionMode) != batchv1.IndexedCompletion {
		return apivalidation.ValidateImmutableField(s.Completions, before.Completions, path)
	}
	if s.Completions == nil || same(s.Completions, before.Completions) || *s.Completions == *s.Parallelism {
		return nil
	}
	return field.ErrorList{field.Invalid(path, s.Completions, "can only be modified in tandem with spec.parallelism")}
}

// validateTemplateUpdate lets the template of a suspended job without pods
// change in where its pods may run (KEP 2926) and what they ask for (KEP 5440).
func validateTemplateUpdate(obj, old *batchv1.Job) field.ErrorList {
	path := specPath.Child("template")
	template, before := &obj.Spec.Template, &old.Spec.Template
	suspended := deref(old.Spec.Suspend)
	idle := suspended && old.Status.Active == 0 && (old.Status.StartTime == nil || hasCondition(old, batchv1.JobSuspended))
	if !idle {
		return podspec.Immutable(template, before, path)
	}
	allowed := before.DeepCopy()
	allowed.Labels, allowed.Annotations = template.Labels, template.Annotations
	allowed.Spec.NodeSelector, allowed.Spec.Tolerations = template.Spec.NodeSelector, template.Spec.Tolerations
	allowed.Spec.SchedulingGates = template.Spec.SchedulingGates
	allowed.Spec.Affinity = withNodeAffinity(allowed.Spec.Affinity, template.Spec.Affinity)
	takeResources(allowed.Spec.Containers, template.Spec.Containers)
	takeResources(allowed.Spec.InitContainers, template.Spec.InitContainers)
	return podspec.Immutable(template.Spec, allowed.Spec, specPath.Child("template.spec"))
}

// withNodeAffinity is a with the node affinity of wanted.
func withNodeAffinity(a, wanted *v1.Affinity) *v1.Affinity {
	switch {
	case wanted == nil && a == nil:
		return nil
	case wanted == nil:
		a.NodeAffinity = nil
		if *a == (v1.Affinity{}) {
			return nil
		}
		return a
	case a == nil:
		return &v1.Affinity{NodeAffinity: wanted.NodeAffinity}
	}
	a.NodeAffinity = wanted.NodeAffinity
	return a
}

func takeResources(to, from []v1.Container) {
	if len(to) != len(from) {
		return
	}
	for i := range to {
		if to[i].Name == from[i].Name {
			to[i].Resources = from[i].Resources
		}
	}
}
