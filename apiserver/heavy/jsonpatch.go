package heavy

import (
	"context"
	"fmt"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/codec"
)

// mostOperations is how many operations a JSON patch may have.
const mostOperations = 10000

// limitCopies keeps the copy operations of a JSON patch, each of which can
// double the object, from making more of it than a request may send
// (CVE-2019-1002100). The limit is the package's, so it is set once.
var limitCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = codec.MaxBody })

// PatchJSON applies the operations of a JSON patch (RFC 6902) of so many bytes
// to a document. Errors are those of the API where the patch is too much work;
// else they say why it does not fit the document.
func (r Runner) PatchJSON(ctx context.Context, operations jsonpatch.Patch, size int, before []byte) (after []byte, err error) {
	if len(operations) > mostOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"The allowed maximum operations in a JSON patch is %d, got %d", mostOperations, len(operations)))
	}
	limitCopies()
	// Each operation may move all of a list, which has no more elements than
	// there are commas.
	cost := Cost(len(operations)) * Cost(len(before)+size) / 4
	err = r.Do(ctx, cost, func() error {
		made, err := apply(operations, before)
		if err == nil {
			after = made
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return after, nil
}

// apply has an operation that is not whole fail, for which the library looks at what is not there: a test without a value, say.
func apply(operations jsonpatch.Patch, before []byte) (after []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			after, err = nil, fmt.Errorf("an operation of the patch lacks something: %v", p)
		}
	}()
	return operations.Apply(before)
}
