// etcd as its own main makes it: that one cannot be built as a dependency, because of its module's replace lines.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
