package bpf

// The multiarch directories hold asm/types.h on Debian; where they do not exist
// clang does not mind.
//go:generate go tool bpf2go -go-package bpf -target bpfel -tags linux classifier classifier.bpf.c -- -O2 -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -tags linux returns return.bpf.c -- -O2 -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -tags linux reflector reflector.bpf.c -- -O2 -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -tags linux guard guard.bpf.c -- -O2 -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
