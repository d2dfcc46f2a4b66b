package storage

import (
	"math"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/core"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func volumeAttachments() *resource.Resource {
	type attachment = storagev1.VolumeAttachment
	spec := storagev1.VolumeAttachmentSpec{}
	attacher := table.Text("Attacher", table.Doc(spec, "attacher"), func(a *attachment) string { return a.Spec.Attacher })
	attacher.Format = "name"
	return resource.Define[storagev1.VolumeAttachmentList](resource.Definition[attachment]{
		Group: group, Version: "v1", Kind: "VolumeAttachment", Plural: "volumeattachments",
		AnswersDeleted: true,
		ClusterScoped:  true,
		NeedsVersion:   true,
		Default: func(a *attachment) {
			if inline := a.Spec.Source.InlineVolumeSpec; inline != nil {
				core.DefaultVolumeSpec(inline)
			}
		},
		Prepare: func(a, old *attachment) {
			a.Status = storagev1.VolumeAttachmentStatus{}
			if old != nil {
				a.Status = *old.Status.DeepCopy()
			}
		},
		Validate: validateAttachment,
		Columns: []resource.Column[*attachment]{
			resource.NameColumn[*attachment](),
			attacher,
			table.Text("PV", table.Doc(storagev1.VolumeAttachmentSource{}, "persistentVolumeName"), func(a *attachment) string { return ptr.Deref(a.Spec.Source.PersistentVolumeName, "") }),
			table.Text("Node", table.Doc(spec, "nodeName"), func(a *attachment) string { return a.Spec.NodeName }),
			table.Bool("Attached", table.Doc(storagev1.VolumeAttachmentStatus{}, "attached"), func(a *attachment) bool { return a.Status.Attached }),
			resource.AgeColumn[*attachment](),
		},
		Subresources: []resource.Subresource[attachment]{{
			Name: "status", View: true,
			Prepare: func(a, old *attachment) {
				a.Spec = *old.Spec.DeepCopy()
				metav1.ResetObjectMetaForStatus(&a.ObjectMeta, old.ObjectMeta.DeepCopy())
			},
			Reset:    []string{"spec", "metadata"},
			Validate: validateAttachment,
		}},
	})
}

func validateAttachment(a, old *storagev1.VolumeAttachment) field.ErrorList {
	at := field.NewPath("spec")
	errs := core.ValidateDriverName(a.Spec.Attacher, at.Child("attacher"))
	inline, pv := a.Spec.Source.InlineVolumeSpec, a.Spec.Source.PersistentVolumeName
	source := at.Child("source")
	switch {
	case inline == nil && pv == nil:
		errs = append(errs, field.Required(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case inline != nil && pv != nil:
		errs = append(errs, field.Forbidden(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case pv != nil && *pv == "":
		errs = append(errs, field.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	case inline != nil:
		errs = append(errs, core.ValidateInlineVolume(inline, source.Child("inlineVolumeSpec"))...)
	}
	if pv != nil {
		errs = append(errs, check.Subdomain(*pv, field.NewPath("spec.source.persistentVolumeName"))...)
	}
	errs = append(errs, check.Subdomain(a.Spec.NodeName, at.Child("nodeName"))...)
	errs = append(errs, validateVolumeError(a.Status.AttachError, field.NewPath("status", "attachError"))...)
	errs = append(errs, validateVolumeError(a.Status.DetachError, field.NewPath("status", "detachError"))...)
	if old != nil {
		errs = append(errs, check.Unchanged(a.Spec, old.Spec, at)...)
	}
	return errs
}

func validateVolumeError(e *storagev1.VolumeError, at *field.Path) field.ErrorList {
	const longest = 1024
	if e == nil {
		return nil
	}
	var errs field.ErrorList
	if len(e.Message) > longest {
		errs = append(errs, field.TooLong(at.Child("message"), "", longest))
	}
	if e.ErrorCode != nil && *e.ErrorCode < 0 {
		errs = append(errs, field.Invalid(at.Child("errorCode"), *e.ErrorCode, utilvalidation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return errs
}
